"""A push that is disturbed leaves the repository as it was or complete, and pushing again completes it."""

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from loopback_hub import LoopbackHub
from loopback_repos import Fault
from toy_hub import hub_settings, run_against, talk_to
from toy_project import environment

from hf_selfdestruct.publish.hub import planned
from hf_selfdestruct.publish.hub import push as publish
from hf_selfdestruct.publish.manifest import MANIFEST, published_files

REPO = "tester/hardened"
# One process for many pushes: each line names a repository, each answer is the exit code.
PUSHER = """
import sys
from hf_selfdestruct.cli.__main__ import main
for line in sys.stdin:
    print("CODE", main(["push", sys.argv[1], line.strip()]), flush=True)
"""


@pytest.fixture
def pusher(folder, tmp_path):
    """Starts a client of a Hub, in a process of its own."""
    started = []

    def start(hub):
        copy = shutil.copytree(folder, tmp_path / f"copy{len(started)}{hub.server_port}")
        child = subprocess.Popen(
            [sys.executable, "-c", PUSHER, copy],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(tmp_path, **hub_settings(hub.url, hub.token), HF_HUB_DISABLE_PROGRESS_BARS="1"),
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()


def push(child):
    """Push once more; the exit code."""
    child.stdin.write(REPO + "\n")
    child.stdin.flush()
    return code(child)


def code(child):
    """The exit code of the push that is under way."""
    return next(int(line.split()[1]) for line in child.stdout if line.startswith("CODE"))


def state(hub, folder):
    """``before``, ``complete`` or what else the repository is."""
    held = {n: c for n, c in hub.repos[REPO].files().items() if n != ".gitattributes"} if REPO in hub.repos else {}
    wanted = {name: (folder / name).read_bytes() for name in (*published_files(folder), MANIFEST)}
    return "before" if not held else "complete" if held == wanted else sorted(held)


def at_once(check, cases):
    """The same check on several cases: the client spends its time waiting to try again."""
    with ThreadPoolExecutor(len(cases)) as pool:
        return list(pool.map(check, cases))


def test_cut_at_every_request(pusher, folder):
    """Once each: before it happened, after it happened, in the middle of the answer, and with a server's error."""

    def disturb(kind):
        outcomes = set()
        with LoopbackHub() as hub:
            child = pusher(hub)
            assert [push(child), hub.forget(), push(child)] == [0, None, 0]  # the first does a little more
            count = len(hub.requests)
            assert count > 10
            for number in range(1, count + 1):
                hub.forget()
                hub.faults["*", number] = Fault(kind)
                first = push(child)
                hub.faults.clear()
                reached = state(hub, folder)
                # An answer that is lost hides a commit that happened.
                assert reached == "complete" if first == 0 else reached in ("before", "complete"), (kind, number)
                outcomes.add((first, reached))
                if first:
                    assert push(child) == 0, (kind, number)
                    assert state(hub, folder) == "complete", (kind, number)
        return outcomes

    outcomes = at_once(disturb, ["cut", "lost", "half", "status"])
    assert set.union(*outcomes) == {(0, "complete"), (1, "before"), (1, "complete")}


def test_hub_that_stays_down(pusher, folder):
    def take_down(from_request):
        with LoopbackHub() as hub:
            hub.down_from = from_request
            child = pusher(hub)
            assert push(child) == 1
            assert state(hub, folder) == "before"
            hub.down_from = 0
            assert push(child) == 0
            assert state(hub, folder) == "complete"
            return child.communicate()[1]

    for errors in at_once(take_down, [1, 5, 8, 16]):
        assert "Traceback" not in errors
        assert len([line for line in errors.splitlines() if line.startswith("hf-selfdestruct: error: ")]) == 1


def test_killed_half_way(pusher, folder, tmp_path):
    """A slow Hub, a client that is killed while it waits: nothing is half-published, and nothing in its way."""
    with LoopbackHub() as hub:
        hub.faults["PUT", 2] = Fault("slow", seconds=60)
        child = pusher(hub)
        child.stdin.write(REPO + "\n")
        child.stdin.flush()
        while len([r for r in hub.requests if r.startswith("PUT")]) < 2:
            assert child.poll() is None
        child.kill()
        assert state(hub, folder) == "before"
        (left,) = tmp_path.glob("copy*/_staging-*")
        again = run_against(hub.url, "push", left.parent, REPO, home=tmp_path)
        assert again.returncode == 0, again.stderr
        assert state(hub, folder) == "complete"
        assert not left.exists()


def test_a_second_push_and_a_dry_run_beside_a_push(pusher, folder, tmp_path, monkeypatch):
    """Another process has copied the folder and is sending it; each process sends its own copy, or nothing."""
    with LoopbackHub() as hub:
        talk_to(hub, monkeypatch, tmp_path)
        child = pusher(hub)
        (own,) = tmp_path.glob("copy*")

        def begin():
            hub.forget()
            hub.faults["PUT", 1] = held = Fault("slow", seconds=300)
            child.stdin.write(REPO + "\n")
            child.stdin.flush()
            while not [r for r in hub.requests if r.startswith("PUT")]:
                assert child.poll() is None
                time.sleep(0.01)
            return held.over

        sent = begin()
        assert planned(own).keys() == {*published_files(folder), MANIFEST}
        sent.set()
        assert code(child) == 0
        assert state(hub, folder) == "complete"
        sent = begin()
        publish(own, REPO, token=hub.token)
        assert state(hub, folder) == "complete"
        sent.set()
        assert code(child) == 1  # somebody else has just pushed there
        assert state(hub, folder) == "complete"
        assert not [*own.glob("_staging*")]
