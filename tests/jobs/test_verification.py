"""What `verify` says: of which folder or commit, by which versions, and in the same line what it cannot show."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
from loopback_repos import FIRST, Commit, Repo
from toy_hub import run_against

from hf_selfdestruct import __version__
from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.jobs.verification import MOST_LINES, Verification, found_at, verify
from hf_selfdestruct.publish.hub import blobs_of
from hf_selfdestruct.publish.manifest import MANIFEST, problems, read_manifest, write_manifest


@pytest.fixture
def snapshot(folder, tmp_path):
    """The folder as the Hub's client lays it down: links to blobs."""
    made = tmp_path / "models--tester--hardened" / "snapshots" / "c0ffee"
    blobs = made.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    for number, name in enumerate([*read_manifest(folder).files, MANIFEST]):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, blobs / str(number))
        (made / name).symlink_to(blobs / str(number))
    return made


def written_by(folder, version):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "hf_selfdestruct": version}))


def test_the_finding_is_one_line_with_what_it_does_not_show(folder):
    found = verify(str(folder), files_only=True)
    files = len(json.loads((folder / MANIFEST).read_text())["files"]) + 1
    assert (found.problems, found.revision, found.files, found.signed, found.unchecked) == ((), "", files, False, False)
    (line,) = found.lines()
    versions = f"({files} files, written by hf_selfdestruct {__version__}, read by {__version__})"
    assert line.startswith(
        f"{folder}: every file matches {versions}; the hashes are unsigned: they reveal accidents, not"
    )


def test_a_card_by_another_version_says_which(folder):
    written_by(folder, "0.0.7")
    assert verify(str(folder), files_only=True).problems == (), "what renders alike is alike"
    (folder / "README.md").write_text("---\n")
    write_manifest(folder)
    written_by(folder, "0.0.7")
    *_, card, verdict = verify(str(folder), files_only=True).lines()
    assert card.endswith(
        f"card.json by hf_selfdestruct {__version__}; version 0.0.7 wrote it, so verify it with that version"
    )
    assert verdict.endswith(f"written by hf_selfdestruct 0.0.7, read by {__version__})")


@pytest.mark.parametrize("bad", ["\x1b[2J", "a\rb", "\u202e", "\udcff", "\u2028"])
def test_a_terminal_obeys_no_stranger(folder, capsys, bad):
    written_by(folder, f"0{bad}")
    (folder / f"x{bad}y").write_text("")
    assert main(["verify", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert bad not in shown
    assert "\\" in shown
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_many_problems_are_not_all_shown(folder):
    for number in range(MOST_LINES + 7):
        (folder / f"x{number}").write_text("")
    found = verify(str(folder), files_only=True)
    assert len(found.problems) == MOST_LINES + 7
    assert len(found.lines()) == MOST_LINES + 2
    assert found.lines()[-2] == "and 7 more"


def test_the_finding_is_frozen(folder):
    assert dataclasses.is_dataclass(Verification)
    with pytest.raises(dataclasses.FrozenInstanceError):
        verify(str(folder), files_only=True).problems = ()


# Which folder


def test_a_folder_never_stands_for_a_repository_unasked(folder, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    named = tmp_path / "owner" / "name"
    shutil.copytree(folder, named)
    line = refused("verify", "owner/name")
    assert "write ./owner/name or hf://owner/name" in line
    for path in ("./owner/name", str(named), "owner/name/", "hardened"):
        assert found_at(path)[1] == ""
        assert verify(path, files_only=True).problems == ()
    with pytest.raises(ValueError, match="is a local folder"):
        found_at("owner/name", "main")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("nowhere", "no folder nowhere"),
        ("./a/b", "no folder ./a/b"),
        ("a/b/c", "no folder a/b/c"),
        ("hf://a", "hf://a is not a repository"),
        ("hf://a/b/c", "is not a repository"),
        ("hf:///etc/x", "is not a repository"),
    ],
)
def test_what_is_neither_a_folder_nor_a_name_is_refused(tmp_path, monkeypatch, source, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=why):
        found_at(source)


def test_a_folder_has_no_revision(folder, refused):
    assert "--revision applies only to a repository" in refused("verify", folder, "--revision", "main")


def test_the_fingerprint_is_asked_of_the_same_folder(tmp_path, monkeypatch, refused):
    """`fingerprint check` reads the fingerprint first; then neither of two folders is taken for the other."""
    from hf_selfdestruct.jobs import fingerprint

    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.setattr(
        fingerprint.Fingerprint, "load", classmethod(lambda cls, path: SimpleNamespace(labels=("a", "b")))
    )
    assert "write ./owner/name or hf://owner/name" in refused("fingerprint", "check", "x.json", "owner/name")


# Downloads


def test_links_of_the_hubs_cache_are_its_files(snapshot):
    assert problems(snapshot, links=blobs_of(snapshot)) == []
    with pytest.raises(ValueError, match="is a link"):
        problems(snapshot)


@pytest.mark.parametrize("where", ["outside", "below"])
def test_other_links_in_the_cache_are_refused(snapshot, tmp_path, where):
    path = (tmp_path if where == "outside" else blobs_of(snapshot) / "sub") / "config.json"
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(snapshot / "config.json", path)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(path)
    (snapshot / "vocab.json").symlink_to(blobs_of(snapshot) / "0")
    expected = ["config.json: is a link; refused", "vocab.json: is a link; refused"]
    assert problems(snapshot, links=blobs_of(snapshot)) == expected


STRANGERS = ("NOTES.md", "config.4.0.0.json", "chat_template.jinja", "_x", "checkpoint-1/a.json", "a.gguf")
VERIFY = """
import sys
from hf_selfdestruct.cli.__main__ import main
sys.stderr = sys.stdout
for repo in sys.argv[1:]:
    print("CODE", main(["verify", repo, "--files-only", "--revision", "main"]))
"""


def test_a_repository_is_named_with_its_commit_and_holds_the_files_of_its_manifest_alone(hub, folder, tmp_path):
    files = {name: (folder / name).read_bytes() for name in (*read_manifest(folder).files, MANIFEST)}
    for number, name in enumerate([".gitattributes", *STRANGERS]):
        commit = Commit(f"{number}" * 40, "all", {**files, name: b"{}"}, ())
        hub.repos[f"tester/x{number}"] = Repo(branches={"main": [FIRST, commit]})
    (tmp_path / "tester" / "x0").mkdir(parents=True)  # and is not meant
    done = run_against(hub.url, "hf://tester/x0", *list(hub.repos)[1:], home=tmp_path, code=VERIFY)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("tester/", "hf-selfdestruct: ", "CODE "))]
    assert lines[0].startswith(f"tester/x0@{'0' * 40}: every file matches ("), done.stdout + done.stderr
    assert lines[1] == "CODE 0"
    for line, code, name in zip(lines[2::2], lines[3::2], STRANGERS, strict=True):
        assert code == "CODE 2"
        why = "can run code or hide weights" if name == "a.gguf" else "its manifest does not list"
        assert f"contains {name}, which {why}" in line
    fetched = [r for r in hub.requests if "/resolve/" in r and not r.endswith(MANIFEST)]
    assert fetched
    assert all("/tester/x0/" in r for r in fetched), "something was fetched of a repository that was refused"


def test_from_the_command_line_a_problem_is_told_with_its_folder(folder, capsys):
    (folder / "vocab.json").write_text("{}")
    assert main(["verify", str(folder)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == "vocab.json: not in the manifest"
    assert last.startswith(f"{folder}: verification FAILED (")
