"""The viewer as it runs: on loopback alone, in a real browser, as a command and as a Space."""

import http.server
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from html import unescape
from importlib.metadata import packages_distributions

import pytest
import yaml
from made_reports import made_report
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sources import ROOT, in_fresh_python
from toy_project import environment

from hf_selfdestruct.jobs import viewer
from hf_selfdestruct.jobs.verification import verify
from hf_selfdestruct.jobs.viewer import FAILED, shown
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.publish.layout import REPORT
from hf_selfdestruct.publish.page import page_of

HERE = ROOT.parent
SPACE = HERE / "spaces" / "report_viewer"
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in (HERE / "constraints.txt").read_text().splitlines() if "==" in line)


def asked(address, source):
    """What the app's endpoint answers for a source: first the number of the question, then its answer as events."""
    data = json.dumps({"data": [source]}).encode()
    request = urllib.request.Request(f"{address}gradio_api/call/shown", data, {"Content-Type": "application/json"})
    number = json.load(urllib.request.urlopen(request, timeout=600))["event_id"]
    events = urllib.request.urlopen(f"{address}gradio_api/call/shown/{number}", timeout=600).read().decode()
    return json.loads(re.search(r"event: complete\ndata: (.*)", events)[1])[0]


def interruptible():
    """Undo what a shell does to the commands that it starts in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_command_serves_the_verified_report_on_loopback_alone(folder, tmp_path):
    words = [sys.executable, "-m", "hf_selfdestruct.cli", "view", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    variables = environment(tmp_path, GRADIO_SERVER_NAME="0.0.0.0", GRADIO_SHARE="True", PYTHONPATH=str(HERE))
    with subprocess.Popen(words, **pipes, cwd=tmp_path, env=variables, preexec_fn=interruptible) as running:
        try:
            line = running.stdout.readline()
            (address,) = re.findall(r"^Open (http://127\.0\.0\.1:\d+/) in a browser", line) or [running.communicate()]
            assert urllib.request.urlopen(address, timeout=600).status == 200
            found = asked(address, str(folder))
            assert "Not opened" in asked(address, str(tmp_path)), "a folder that the command did not name"
            other = urllib.request.Request(address, headers={"Host": "site.example"})
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(other, timeout=600)
        finally:
            running.send_signal(signal.SIGINT)
            killed = threading.Timer(120, running.kill)
            killed.start()
            more, errors = running.communicate()
            killed.cancel()
    assert (running.returncode, more, errors) == (0, "", "")
    assert found == shown(str(folder), [str(folder)])
    assert FAILED in found
    assert all(line in unescape(found) for line in verify(str(folder)).lines())
    assert "0.610 from this model" in found


@pytest.mark.parametrize("policy", [True, False])
def test_in_a_browser_no_word_of_a_report_runs_or_loads(tmp_path, monkeypatch, policy):
    """Not even where a page is not escaped: its policy forbids requests; without it, the frame forbids scripts."""
    requests = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        words = f"<img src='{address}/inner' onerror='top.run=1'><script>top.run=1;fetch('{address}/script')</script>"
        words += f"<iframe src='{address}/frame'></iframe><meta http-equiv=refresh content='0;url={address}/moved'>"
        made_report().save(tmp_path / REPORT)
        text = page_of(made_report(), CardDetails()).replace("<main>", f"<main>{words}")
        text = text if policy else text.replace("Content-Security-Policy", "none")
        monkeypatch.setattr(viewer, "page_of", lambda *_: text)
        page = tmp_path / "page.html"
        last = "onload = () => document.title = [window.run, document.querySelectorAll('iframe').length]"
        html = shown(str(tmp_path), [str(tmp_path)])
        page.write_text(f"<!doctype html><meta charset=utf-8><img src='{address}/outer'>{html}<script>{last}</script>")
        browser = [shutil.which("chromium") or "chromium", "--headless", "--no-sandbox", "--no-first-run"]
        quiet = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
        browser += [*(f"--disable-{name}" for name in quiet), f"--user-data-dir={tmp_path / 'profile'}"]
        browser += ["--dump-dom", page.as_uri()]
        done = subprocess.run(browser, capture_output=True, text=True, check=True, timeout=600)
        server.shutdown()
    assert re.search("<title>(.*?)</title>", done.stdout)[1] == ",1"
    assert requests == ["/outer"] if policy else {"/outer", "/inner"} <= {*requests}, "the recorder works"
    assert "/script" not in requests


# Mistakes


def test_where_nothing_can_be_served_one_line_says_why(folder, tmp_path, refused, monkeypatch):
    assert "no folder" in refused("view", tmp_path / "nowhere")
    assert "no folder" in refused("view", folder, tmp_path / "nowhere")
    assert "--port must be from 1 to 65535" in refused("view", folder, "--port", "65536")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in refused("view", folder, "--port", port)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'hf-selfdestruct[view]'" in refused("view", folder)


# The Space


def test_the_space_has_what_the_hub_asks_for():
    head = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == PINS["gradio"]
    assert (SPACE / head["app_file"]).is_file()
    assert len(head["short_description"]) <= 60


def test_the_space_opens_the_hub_alone_without_token_or_torch(folder):
    """Of the package's dependencies it loads those of its requirements, and no more."""
    code = f"""
import json, os, runpy, sys
os.environ["HF_TOKEN"] = "hf_of_the_owner"
app = runpy.run_path({str(SPACE / "app.py")!r})["viewer"]
from hf_selfdestruct.jobs import viewer
from huggingface_hub.utils import build_hf_headers
assert "authorization" not in build_hf_headers()
assert "Not opened" in viewer.shown({str(folder)!r})
viewer.page_of(viewer.AttackReport.load({str(folder / REPORT)!r}), viewer.details_of({str(folder)!r}))
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    sources = packages_distributions()
    loaded = {canonicalize_name(name) for found in json.loads(in_fresh_python(code)) for name in sources.get(found, ())}
    lines = {line for line in (SPACE / "requirements.txt").read_text().splitlines() if not line.startswith("#")}
    needed = {line for line in PROJECT["dependencies"] if canonicalize_name(Requirement(line).name) in loaded}
    assert lines == needed | {*PROJECT["optional-dependencies"]["view"]}
    assert "torch" not in loaded
