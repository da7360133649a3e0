"""The built pages in a real browser: nothing is wider than a desktop's window or a phone's."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading

WIDTHS = (390, 1280)
# Told through the title, which the browser prints with the page. A frame has the width of a window.
LOOK = """<!doctype html><meta charset=utf-8><script>
const pages = %s, widths = %s, frames = [];
window.onload = () => {
  document.title = JSON.stringify(frames.map(([page, width, frame]) => {
    const root = frame.contentDocument.documentElement, main = frame.contentDocument.querySelector("article");
    const svgs = [...frame.contentDocument.querySelectorAll(".figure svg")];
    const figures = svgs.map(f => f.getBoundingClientRect().width);
    return {page, width, scrolls: root.scrollWidth, words: main.innerText.length, figures};
  }));
};
for (const page of pages) for (const width of page.includes("/") ? widths.slice(0, 1) : widths) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.src = page;
  frames.push([page, width, frame]);
}
document.addEventListener("DOMContentLoaded", () => frames.forEach(([, , frame]) => document.body.append(frame)));
</script><body>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, *_):
        pass


def looked_at(site, tmp_path):
    """What a browser finds on every page at every width."""
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.name != "search.html")
    shown = tmp_path / "site"
    shutil.copytree(site, shown)  # other tests read the site meanwhile
    (shown / "look.html").write_text(LOOK % (json.dumps(pages), json.dumps(WIDTHS)))
    handler = functools.partial(Quiet, directory=str(shown))
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = [shutil.which("chromium") or "chromium", "--headless", "--no-sandbox", "--no-first-run"]
        words += [*(f"--disable-{name}" for name in quiet), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        words += [f"http://127.0.0.1:{server.server_port}/look.html"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return pages, json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))


def test_no_page_scrolls_sideways(site, tmp_path):
    pages, found = looked_at(site, tmp_path)
    assert {one["page"] for one in found if one["width"] == WIDTHS[0]} == {*pages}
    assert {one["page"] for one in found if one["width"] == WIDTHS[1]} > {"index.html", "methods.html", "report.html"}
    assert [one for one in found if one["scrolls"] > one["width"]] == []
    assert [one["page"] for one in found if not one["words"]] == []
    assert {len(one["figures"]) for one in found if one["page"] == "how.html"} == {4}
    assert all(200 < width <= one["width"] for one in found for width in one["figures"])
