"""The Hub: the only room that talks to it."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo

from ..files import printable, reason
from .card import details_of
from .card_details import GATES
from .layout import MODULES, is_left_by_download, is_published
from .manifest import LEFT_BY_TRAINER, MANIFEST, SIGNATURE, read_manifest, suspects
from .staging import plan_of, staged, staged_files

FRESH = (".gitattributes", "README.md")  # what the Hub itself puts into a new repository
LOG_IN = "run `hf auth login`, or set HF_TOKEN"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    message: str = "Publish hardened model",
    token: str | None = None,
    private: bool | None = None,
    gated: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    key: str | Path | None = None,
    replace: bool = False,
) -> CommitInfo:
    """Upload a hardened folder's published files in one commit.

    The files are copied, and the copy verified, before anything is sent; the commit is compared with that copy's
    manifest. Nothing but the files of the manifest, the manifest itself and a signature goes: no pickles, no optimizer
    state, no logs. Files of our kind that the repository still has of an earlier version are deleted in the same
    commit, whose description names them. Doing it again is safe: equal files are not sent twice, and where nothing
    differs there is no commit.

    Args:
        folder: A hardened folder.
        repo_id: ``name`` or ``owner/name``.
        message: Commit message.
        token: Hub token; by default the one of ``hf auth login`` or ``HF_TOKEN``.
        private: Whether a new repository is private. An existing public one is then refused.
        gated: ``auto`` or ``manual``: who wants the files must ask. Written to the card, and switched on before the
            first file goes. By default what the card's ``gate`` says.
        revision: Branch to commit to, made if need be; by default ``main``.
        create_pr: Whether to open a pull request instead.
        key: Private key to sign with, see :func:`signing.sign`.
        replace: Whether to delete all else that the repository holds, such as another model; the commit's description
            names it. Without, a repository that holds files but no manifest of ours is refused.

    Returns:
        What the Hub says of the commit.

    Raises:
        ValueError: The folder has no evidence, does not agree with its manifest, or would give away a token or a path
            of this machine; the repository holds another model, files that :func:`fetched` refuses, or is public
            against ``private``; or no such gate.
        ConnectionError: The Hub cannot be reached, or refuses; nothing is half-published.
    """
    if gated is not None and gated not in GATES:
        raise ValueError(f"gated must be one of {', '.join(GATES)}; got {gated!r}.")
    if create_pr and revision:
        raise ValueError("a pull request goes to main; leave revision or create_pr out.")
    asked = partial(_one_line, repo_id, "push", "nothing is half-published")
    api = HfApi(token=token)
    with staged(folder, gated=gated, key=key, token=token) as copy:
        with asked():
            repo, held = _repository(api, repo_id, private=private, revision=revision)
        _check_repository(repo, held, private=private)
        names = [s.rfilename for s in held.siblings or ()]
        sent = staged_files(copy)
        stale = _deleted(repo, names, sent, replace=replace)
        lost = [] if MANIFEST in names else [name for name in names if name in sent and name not in FRESH]
        said = [f"{what} {printable(', '.join(of))}." for what, of in (("Deletes", stale), ("Overwrites", lost)) if of]
        with asked():
            if revision:
                api.create_branch(repo, branch=revision, exist_ok=True)
            if mode := details_of(copy).gate.mode:
                api.update_repo_settings(repo, gated="auto" if mode == "auto" else "manual")
        additions = _additions(copy)
        with asked():
            return api.create_commit(
                repo,
                [*additions, *map(CommitOperationDelete, stale)],
                commit_message=message,
                commit_description=" ".join(said) or None,
                revision=revision,
                create_pr=create_pr,
                parent_commit=held.sha,
            )


def fetched(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """A published hardened folder, fetched into the Hub's cache.

    Only the files of the manifest are fetched. Nothing in them is trusted, loaded or run.

    Returns:
        The folder, whose name is the commit; its files are links to ``../../blobs``.

    Raises:
        ValueError: The repository holds a file that its manifest does not list, or no manifest.
        ConnectionError: The Hub cannot be reached, or refuses.
    """
    api = HfApi(token=token)
    asked = partial(_one_line, repo_id, "verify", "nothing was verified")
    with asked():
        held = api.model_info(repo_id, revision=revision)
    names = [s.rfilename for s in held.siblings or ()]
    if found := suspects(name for name in names if name != MODULES):  # held to the manifest, and read below
        raise ValueError(f"{repo_id} holds {found[0]}, which can run code or hide weights; refused.")
    if MANIFEST not in names:
        raise ValueError(f"{repo_id} has no {MANIFEST}: it is not a hardened model that was published whole.")
    with asked():
        folder = Path(api.hf_hub_download(repo_id, MANIFEST, revision=held.sha)).parents[1]
    listed = {*read_manifest(folder, links=blobs_of(folder)).files, MANIFEST, SIGNATURE}
    if others := sorted(name for name in names if name not in listed and not is_left_by_download(name)):
        raise ValueError(f"{repo_id} holds {others[0]}, which its manifest does not list; refused.")
    with asked():
        return Path(api.snapshot_download(repo_id, revision=held.sha, allow_patterns=sorted(listed)))


def blobs_of(folder: Path) -> Path:
    """Where the files of a fetched folder lie, which its links point to."""
    return folder.resolve().parents[1] / "blobs"


def planned(folder: str | Path, *, gated: str | None = None, key: str | Path | None = None) -> dict[str, int]:
    """What :func:`push` would send: each file's path in the repository, and its size in bytes.

    Raises:
        ValueError: As :func:`push`.
    """
    with staged(folder, gated=gated, key=key) as copy:
        return staged_files(copy)


def _repository(api: HfApi, name: str, *, private: bool | None, revision: str | None) -> tuple[str, ModelInfo]:
    """The repository's whole name, made if need be, and what a branch of it holds."""
    repo = api.create_repo(name, private=private, exist_ok=True).repo_id
    try:
        held = api.model_info(repo, revision=revision)
    except RevisionNotFoundError:  # a new branch begins as main
        held = api.model_info(repo)
    return repo, held


def _check_repository(repo: str, held: ModelInfo, *, private: bool | None) -> None:
    """Refuse a repository that is not the one that was asked for.

    Raises:
        ValueError: It has another name now, or is public and should be private.
    """
    if held.id.lower() != repo.lower():
        raise ValueError(f"{repo} was renamed: it is now {printable(held.id)}; push there. Nothing was sent.")
    if private and not held.private:
        raise ValueError(
            f"{repo} is public, and a private repository was asked for; nothing was sent. Make it private in its "
            "settings on the Hub, push to another repository, or leave private out."
        )


def _deleted(repo: str, names: Sequence[str], sent: Iterable[str], *, replace: bool) -> list[str]:
    """Files of a repository that a push deletes.

    Raises:
        ValueError: The repository holds what nobody asked to delete.
    """
    beside = [name for name in names if name not in sent and name != ".gitattributes"]
    if replace:
        return beside
    cure = "nothing was sent. Push to another repository, or give --replace (replace=True), which deletes"
    if MANIFEST not in names and (others := [name for name in names if name not in FRESH]):
        raise ValueError(f"{repo} holds another model ({_few(others)}); {cure} all that is there.")
    if found := suspects(name for name in names if name not in (LEFT_BY_TRAINER, MODULES)):
        raise ValueError(f"{repo} holds {found[0]}, which can run code or hide weights; {cure} {_few(beside)} there.")
    if others := [name for name in beside if not _ours(name)]:
        raise ValueError(f"{repo} holds {_few(others)}: nobody could verify it; {cure} {_few(beside)} there.")
    return beside


def _few(names: Sequence[str]) -> str:
    shown = printable(", ".join(names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _additions(copy: Path) -> list[CommitOperationAdd]:
    """The files of a copy, compared with what was verified.

    Raises:
        ValueError: The copy is no longer what its manifest lists, or lists no whole model.
    """
    plan, additions = plan_of(copy), [CommitOperationAdd(path, copy / path) for path in staged_files(copy)]
    found = {one.path_in_repo: (one.upload_info.size, one.upload_info.sha256.hex()) for one in additions}
    if wrong := sorted(name for name in plan.keys() | found.keys() if plan.get(name) != found.get(name)):
        raise ValueError(f"{copy}: {wrong[0]} is not what was verified; nothing was sent. Push again.")
    return additions


def _ours(path: str) -> bool:
    """Whether a file in a repository is of the kinds we publish, or Trainer's; ``*`` stays within a folder."""
    return is_published(path) or path in (MANIFEST, SIGNATURE, LEFT_BY_TRAINER)


@contextmanager
def _one_line(what: str, verb: str, left: str) -> Iterator[None]:
    """Turns what the client raises into one line that says what to do, without its token.

    Args:
        what: The repository.
        verb: What to do again after the cure.
        left: What the failure left behind.
    """
    try:
        yield
    except LocalTokenNotFoundError:
        raise ConnectionError(f"no Hub token: {LOG_IN}, and {verb} again.") from None
    except HfHubHTTPError as error:
        raise ConnectionError(f"the Hub refused {what!r} {_why(error, verb)}; {left}.") from None
    except HFValidationError:  # a wrong name
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # the client believes every answer
        raise ConnectionError(
            f"the Hub's answer on {what!r} does not fit a {verb} ({type(error).__name__}: {reason(error)}): look "
            f"whether the repository was renamed or moved, and {verb} again; {left}."
        ) from error
    # The client's own failures to connect are no OSError, and an upload's is a RuntimeError around one.
    except (HTTPError, OSError, RuntimeError) as error:
        raise ConnectionError(f"{_failed(error)}, and {verb} again; {left}.") from None


def _why(error: HfHubHTTPError, verb: str) -> str:
    code = error.response.status_code if error.response is not None else 0
    if code == 401:
        return f"(401): there is no token, or not one that it knows: {LOG_IN}, and {verb} again"
    if code == 409:
        return f"(409): somebody else is changing that repository: try again later, and {verb} again"
    if code == 412:
        return f"(412): somebody else has just pushed there: look at what, and {verb} again"
    if code == 429 or code >= 500:
        return f"({code}): it is too busy or broken: try again later"
    return f"({code or 'no status'}): check the name and what the token may do there, and {verb} again"


def _failed(error: BaseException) -> str:
    """What went wrong on the way, and its cure; the client wraps errors in others."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno in FULL:
            where = f" for {inner.filename}" if inner.filename else ""
            return f"the disk or the Hub's cache is full ({inner.strerror}{where}): free some space"
        inner = inner.__cause__ or inner.__context__
    return f"the Hub could not be reached ({type(error).__name__}): check the network"
