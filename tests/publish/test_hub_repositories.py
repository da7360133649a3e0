"""What a repository already holds, is called or is: nothing is destroyed, and every answer of the Hub is one line."""

import resource

import pytest
from loopback_repos import FIRST, Commit, Fault, Repo
from toy_hub import commits, talk_to

from hf_selfdestruct.publish.hub import fetched, push
from hf_selfdestruct.publish.manifest import MANIFEST, published_files

REPO = "tester/hardened"
OTHER = {"model.safetensors": b"another", "config.json": b"{}", "pytorch_model.bin": b"x", "data/words.txt": b"words"}


@pytest.fixture
def here(hub, tmp_path, monkeypatch):
    """The Hub of this process's client."""
    talk_to(hub, monkeypatch, tmp_path)
    return hub


def holding(hub, files, **facts):
    """A repository on it with these files."""
    commit = Commit("2" * 40, "theirs", {**FIRST.files, **files}, tuple(files))
    hub.repos[REPO] = Repo(branches={"main": [FIRST, commit]}, **facts)
    return hub.repos[REPO]


def complete(hub, folder, revision="main"):
    return {*hub.repos[REPO].files(revision)} - {".gitattributes"} == {*published_files(folder), MANIFEST}


@pytest.mark.parametrize("gated", [None, "auto"])
@pytest.mark.parametrize("revision", [None, "new"])
def test_another_model_is_not_overwritten_unasked(here, folder, gated, revision):
    repo = holding(here, OTHER)
    with pytest.raises(ValueError, match=r"contains another model \(config.json, .*--replace"):
        push(folder, REPO, token="hf_x", gated=gated, revision=revision)
    assert (len(commits(here)), repo.gated, [*repo.branches]) == (1, False, ["main"])


def test_replacing_says_what_it_deletes_and_leaves_the_release_alone(here, folder):
    holding(here, OTHER)
    commit = push(folder, REPO, token="hf_x", replace=True)
    said = "Deletes data/words.txt, pytorch_model.bin. Overwrites config.json, model.safetensors."
    assert commit.commit_description == said
    assert complete(here, folder)


@pytest.mark.parametrize("files", [{}, {"README.md": b"# new"}])
def test_a_fresh_repository_needs_no_flag(here, folder, files):
    holding(here, files)
    push(folder, REPO, token="hf_x")
    assert complete(here, folder)


def test_one_of_ours_needs_no_flag(here, folder):
    push(folder, REPO, token="hf_x")
    files = here.repos[REPO].branches["main"][-1].files
    files |= {"selfdestruct/old.png": b"png", "model.safetensors": b"an earlier version"}
    assert push(folder, REPO, token="hf_x").commit_description == "Deletes selfdestruct/old.png."
    assert complete(here, folder)


def test_a_branch_of_ours_beside_another_model(here, folder):
    push(folder, REPO, token="hf_x", revision="hardened")
    here.repos[REPO].branches["main"].append(Commit("3" * 40, "theirs", OTHER, tuple(OTHER)))
    push(folder, REPO, token="hf_x", revision="hardened")
    assert complete(here, folder, "hardened")
    assert here.repos[REPO].files() == OTHER


def test_private_never_publishes_in_a_public_repository(here, folder):
    holding(here, {})
    with pytest.raises(ValueError, match="is public, but private=True"):
        push(folder, REPO, token="hf_x", private=True)
    assert len(commits(here)) == 1
    here.repos[REPO].private = True
    push(folder, REPO, token="hf_x", private=True)
    assert complete(here, folder)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_renamed_repository_is_named(here, folder, status):
    holding(here, {})
    here.repos["tester/new"] = here.repos.pop(REPO)
    here.renamed, here.moved = {REPO: "tester/new"}, status
    with pytest.raises(ValueError, match="is now tester/new; push there"):
        push(folder, REPO, token="hf_x")
    assert len(commits(here)) == 1


@pytest.mark.parametrize("status", [301, 409])
def test_such_a_status_at_any_request_is_one_line(here, folder, status):
    def pushed():
        try:
            push(folder, REPO, token="hf_x", revision="new", gated="auto")
        except ConnectionError as error:
            return str(error)
        return ""

    assert not pushed()
    count = len(here.requests)
    assert count > 10
    for number in range(1, count + 1):
        here.forget()
        here.faults["*", number] = Fault("status", status)
        line = pushed()
        assert line.isprintable()
        assert complete(here, folder, "new") if not line else "push again" in line, number
        assert not line or not [c for c in commits(here) if c.title != "initial commit"], number


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_not_a_wrong_name(here, folder, status):
    here.refuse = status
    with pytest.raises(ConnectionError, match=f"({status}).*push again later"):
        push(folder, REPO, token="hf_x")


def test_a_full_disk_is_not_a_network(here, folder):
    push(folder, REPO, token="hf_x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ConnectionError, match="the disk or the Hub's cache is full"):
            fetched(REPO, token="hf_x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
