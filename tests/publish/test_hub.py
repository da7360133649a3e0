"""Publishing, with the real client in a process of its own against a Hub on loopback."""

import socket

import pytest
from toy_hub import commits, one_line

from hf_selfdestruct.publish.manifest import MANIFEST, published_files


def test_folder_arrives_complete_in_one_commit(hub, push, folder):
    done = push(hub.url)
    assert done.returncode == 0, done.stderr
    (commit,) = commits(hub)
    arrived = {n: c for n, c in hub.repos["tester/hardened"].files().items() if n != ".gitattributes"}
    assert set(arrived) == set(commit.changed) == {*published_files(folder), MANIFEST}
    for name, content in arrived.items():
        assert content == (folder / name).read_bytes(), name
    assert "/tester/hardened/commit/" in done.stdout


def test_nothing_private_or_pickled_is_sent(hub, push, folder):
    assert (folder / "training_args.bin").is_file()
    assert (folder / "checkpoint-2" / "model.safetensors").is_file()
    assert push(hub.url).returncode == 0
    names = hub.repos["tester/hardened"].files()
    assert not [
        n for n in names if n.endswith((".bin", ".pt", ".pkl", ".db", ".py")) or n.startswith(("_", "checkpoint"))
    ]
    assert not [n for n, content in names.items() if content == b"private"]


def test_pushing_again_is_safe(hub, push):
    first, second = push(hub.url), push(hub.url)
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    uploads = [r for r in hub.requests if r.startswith("PUT")]
    assert len(uploads) == len({*uploads}), "equal files were sent twice"
    assert len(commits(hub)) == 1, "an empty commit"


@pytest.mark.parametrize("name", ["model.safetensors", "README.md", "selfdestruct/report.json"])
def test_changed_file_is_refused_before_any_request(hub, push, folder, name):
    with (folder / name).open("ab") as file:
        file.write(b" ")
    line = one_line(push(hub.url), 2)
    assert f"{name}: changed" in line
    assert hub.requests == []


def test_folder_without_evidence_is_refused_before_any_request(hub, push, folder):
    (folder / MANIFEST).unlink()
    assert "manifest.json" in one_line(push(hub.url), 2)
    assert hub.requests == []


def test_no_network_is_one_line(push):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    line = one_line(push(f"http://127.0.0.1:{port}"), 1)
    assert "could not reach the Hub" in line
    assert "push again" in line


def test_no_token_is_one_line_that_says_what_to_set(hub, push):
    line = one_line(push(hub.url, token=None), 1)
    assert "token" in line
    assert "HF_TOKEN" in line
    assert commits(hub) == []


@pytest.mark.parametrize("token", ["hf_wrong", "hf_x"])
def test_no_right_is_one_line(hub, push, token):
    hub.refuse = 0 if token == "hf_wrong" else 403
    line = one_line(push(hub.url, token=token), 1)
    assert "tester/hardened" in line
    assert ("401" if token == "hf_wrong" else "403") in line
    assert commits(hub) == []


def test_hub_that_breaks_down_is_one_line(hub, push):
    hub.refuse = 400
    assert "400" in one_line(push(hub.url), 1)


def test_wrong_name_is_one_line(hub, push):
    one_line(push(hub.url, repo="a/b/c"), 2)
    assert commits(hub) == []
