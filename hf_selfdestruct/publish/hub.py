"""All communication with the Hub: push a hardened folder, fetch a published one."""

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
from .layout import CARD, MODULES, is_left_by_download, is_published
from .manifest import LEFT_BY_TRAINER, MANIFEST, REPORT, SIGNATURE, read_manifest, suspects
from .staging import plan_of, staged, staged_files

MOST_EVIDENCE = 2**25  # bytes of a file that is shown to whoever names a repository
FRESH = (".gitattributes", "README.md")  # files that the Hub creates in a new repository
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

    The files are copied, and the copy is verified before anything is sent; the commit is compared with the copy's
    manifest. Only the files of the manifest, the manifest itself and a signature are sent: no pickles, no optimizer
    state, no logs. The same commit deletes published files of an earlier version, and its description names them.
    Pushing again is safe: unchanged files are not sent again, and without changes there is no commit.

    Args:
        folder: A hardened folder.
        repo_id: ``name`` or ``owner/name``.
        message: Commit message.
        token: Hub token; by default the one of ``hf auth login`` or ``HF_TOKEN``.
        private: Whether a new repository is private. If so, an existing public repository is refused.
        gated: ``auto`` or ``manual``: users must request access. The card states the gate, and the Hub enables it
            before the first file is sent. By default the ``gate`` of the card.
        revision: Branch to commit to, created if missing; by default ``main``.
        create_pr: Whether to open a pull request instead.
        key: Private key to sign with, see :func:`signing.sign`.
        replace: Whether to delete every other file in the repository, such as another model; the commit's description
            names the files. By default, a repository with files but without a manifest is refused.

    Returns:
        The commit, as the Hub describes it.

    Raises:
        ValueError: The folder has no evidence, does not match its manifest, or would reveal a token or a path of this
            machine; the repository contains another model or files that :func:`fetched` refuses, or is public
            despite ``private``; or the gate is unknown.
        ConnectionError: The Hub cannot be reached, or refuses; nothing is half-published.
    """
    if gated is not None and gated not in GATES:
        raise ValueError(f"gated must be one of {', '.join(GATES)}; got {gated!r}.")
    if create_pr and revision:
        raise ValueError("a pull request targets main, so pass either revision or create_pr, not both.")
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
    """Fetch a published hardened folder to the Hub's cache.

    Only the files of the manifest are fetched. Their content is not trusted, loaded or run.

    Returns:
        The folder, named by the commit; its files are links to ``../../blobs``.

    Raises:
        ValueError: The repository has no manifest, or contains a file that the manifest does not list.
        ConnectionError: The Hub cannot be reached, or refuses.
    """
    api = HfApi(token=token)
    asked = partial(_one_line, repo_id, "verify", "nothing was verified")
    with asked():
        held = api.model_info(repo_id, revision=revision)
    names = [s.rfilename for s in held.siblings or ()]
    if found := suspects(name for name in names if name != MODULES):  # that file is checked below
        raise ValueError(f"{repo_id} contains {found[0]}, which can run code or hide weights; refused.")
    if MANIFEST not in names:
        raise ValueError(f"{repo_id} has no {MANIFEST}: it is not a completely published hardened model.")
    with asked():
        folder = Path(api.hf_hub_download(repo_id, MANIFEST, revision=held.sha)).parents[1]
    listed = {*read_manifest(folder, links=blobs_of(folder)).files, MANIFEST, SIGNATURE}
    if others := sorted(name for name in names if name not in listed and not is_left_by_download(name)):
        raise ValueError(f"{repo_id} contains {others[0]}, which its manifest does not list; refused.")
    with asked():
        return Path(api.snapshot_download(repo_id, revision=held.sha, allow_patterns=sorted(listed)))


def fetched_evidence(repo_id: str) -> Path:
    """Fetch the report and the publisher's details of a published hardened folder, and no weights.

    Nothing is verified: the manifest and the files that it lists are not fetched.

    Returns:
        The folder, named by the commit.

    Raises:
        ValueError: The repository has no report, or one of the two files is too large to be read.
        ConnectionError: The Hub cannot be reached, or refuses.
    """
    api = HfApi()
    asked = partial(_one_line, repo_id, "open it", "nothing was opened")
    with asked():
        held = api.model_info(repo_id, files_metadata=True)
    sizes = {s.rfilename: s.size for s in held.siblings or ()}
    if REPORT not in sizes:
        raise ValueError(f"{repo_id} has no {REPORT}: it is not a published hardened model.")
    wanted = [name for name in (REPORT, CARD) if name in sizes]
    for name in wanted:
        if (size := sizes[name]) is None or size > MOST_EVIDENCE:
            raise ValueError(f"{repo_id}: {name} has {size} bytes; the limit is {MOST_EVIDENCE}.")
    with asked():
        return Path(api.snapshot_download(repo_id, revision=held.sha, allow_patterns=wanted))


def blobs_of(folder: Path) -> Path:
    """Return the folder that the links of a fetched folder point to."""
    return folder.resolve().parents[1] / "blobs"


def planned(folder: str | Path, *, gated: str | None = None, key: str | Path | None = None) -> dict[str, int]:
    """List the files that :func:`push` would send: paths in the repository, and sizes in bytes.

    Raises:
        ValueError: As :func:`push`.
    """
    with staged(folder, gated=gated, key=key) as copy:
        return staged_files(copy)


def _repository(api: HfApi, name: str, *, private: bool | None, revision: str | None) -> tuple[str, ModelInfo]:
    """Create the repository if missing; return its full name and the content of the branch."""
    repo = api.create_repo(name, private=private, exist_ok=True).repo_id
    try:
        held = api.model_info(repo, revision=revision)
    except RevisionNotFoundError:  # a new branch starts from main
        held = api.model_info(repo)
    return repo, held


def _check_repository(repo: str, held: ModelInfo, *, private: bool | None) -> None:
    """Check the name and the visibility of a repository.

    Raises:
        ValueError: The repository was renamed, or is public and should be private.
    """
    if held.id.lower() != repo.lower():
        raise ValueError(f"{repo} was renamed: it is now {printable(held.id)}; push there. Nothing was sent.")
    if private and not held.private:
        raise ValueError(
            f"{repo} is public, but private=True (--private) was given; nothing was sent. Make the repository private "
            "in its settings on the Hub, push to another repository, or leave private out."
        )


def _deleted(repo: str, names: Sequence[str], sent: Iterable[str], *, replace: bool) -> list[str]:
    """List the files of a repository that a push deletes.

    Raises:
        ValueError: The repository contains files that only ``replace`` may delete.
    """
    beside = [name for name in names if name not in sent and name != ".gitattributes"]
    if replace:
        return beside
    cure = "nothing was sent. Push to another repository, or pass --replace (replace=True), which deletes"
    if MANIFEST not in names and (others := [name for name in names if name not in FRESH]):
        raise ValueError(f"{repo} contains another model ({_few(others)}); {cure} all files there.")
    if found := suspects(name for name in names if name not in (LEFT_BY_TRAINER, MODULES)):
        raise ValueError(f"{repo} contains {found[0]}, which can run code or hide weights; {cure} {_few(beside)}.")
    if others := [name for name in beside if not _ours(name)]:
        raise ValueError(f"{repo} contains {_few(others)}: verification would fail; {cure} {_few(beside)}.")
    return beside


def _few(names: Sequence[str]) -> str:
    shown = printable(", ".join(names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _additions(copy: Path) -> list[CommitOperationAdd]:
    """Prepare the files of a copy for the commit, and compare them with the manifest.

    Raises:
        ValueError: The copy differs from its manifest, or the manifest lists no complete model.
    """
    plan, additions = plan_of(copy), [CommitOperationAdd(path, copy / path) for path in staged_files(copy)]
    found = {one.path_in_repo: (one.upload_info.size, one.upload_info.sha256.hex()) for one in additions}
    if wrong := sorted(name for name in plan.keys() | found.keys() if plan.get(name) != found.get(name)):
        raise ValueError(f"{copy}: {wrong[0]} changed after verification; nothing was sent. Push again.")
    return additions


def _ours(path: str) -> bool:
    """Whether we publish files of this kind, or Trainer does."""
    return is_published(path) or path in (MANIFEST, SIGNATURE, LEFT_BY_TRAINER)


@contextmanager
def _one_line(what: str, verb: str, left: str) -> Iterator[None]:
    """Convert errors of the client to one line with the remedy and without the token.

    Args:
        what: The repository.
        verb: The command to repeat after the remedy.
        left: The state that the failure leaves.
    """
    try:
        yield
    except LocalTokenNotFoundError:
        raise ConnectionError(f"no Hub token: {LOG_IN}, then {verb} again.") from None
    except HfHubHTTPError as error:
        raise ConnectionError(f"the Hub refused {what!r} {_why(error, verb)}; {left}.") from None
    except HFValidationError:  # a wrong name
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # the client does not check answers
        raise ConnectionError(
            f"unexpected answer of the Hub about {what!r} ({type(error).__name__}: {reason(error)}): check whether the "
            f"repository was renamed or moved, then {verb} again; {left}."
        ) from error
    # The client's own connection errors are no OSError; a failed upload raises a RuntimeError around one.
    except (HTTPError, OSError, RuntimeError) as error:
        raise ConnectionError(f"{_failed(error)}, then {verb} again; {left}.") from None


def _why(error: HfHubHTTPError, verb: str) -> str:
    code = error.response.status_code if error.response is not None else 0
    if code == 401:
        return f"(401): the token is missing or invalid: {LOG_IN}, then {verb} again"
    if code == 409:
        return f"(409): another client is changing the repository: {verb} again later"
    if code == 412:
        return f"(412): another client has just pushed to the repository: check that commit, then {verb} again"
    if code == 429 or code >= 500:
        return f"({code}): the Hub is overloaded or failing: {verb} again later"
    return f"({code or 'no status'}): check the repository's name and the token's permissions, then {verb} again"


def _failed(error: BaseException) -> str:
    """Describe a failed transfer and its remedy; the client wraps the original error in others."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno in FULL:
            where = f" for {inner.filename}" if inner.filename else ""
            return f"the disk or the Hub's cache is full ({inner.strerror}{where}): free some space"
        inner = inner.__cause__ or inner.__context__
    return f"could not reach the Hub ({type(error).__name__}): check the network"
