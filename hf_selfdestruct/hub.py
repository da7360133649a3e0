"""The Hub: the only room that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

from .card import details_of
from .details import GATES
from .endpoint import LOG_IN
from .layout import is_left_by_download
from .manifest import LEFT_BY_TRAINER, MANIFEST, PUBLISHED, SIGNATURE, read_manifest, suspects
from .staging import staged, staged_files


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
) -> CommitInfo:
    """Upload a hardened folder's published files in one commit.

    The files are copied, and the copy verified, before anything is sent. Nothing but the files of the manifest, the
    manifest itself and a signature goes: no pickles, no optimizer state, no logs. Files of our kind that the repository
    still has of an earlier version go in the same commit. Doing it again is safe: equal files are not sent twice, and
    where nothing differs there is no commit.

    Args:
        folder: A hardened folder.
        repo_id: ``name`` or ``owner/name``.
        message: Commit message.
        token: Hub token; by default the one of ``hf auth login`` or ``HF_TOKEN``.
        private: Whether a new repository is private.
        gated: ``auto`` or ``manual``: who wants the files must ask. Written to the card, and switched on before the
            first file goes. By default what the card's ``gate`` says.
        revision: Branch to commit to, made if need be; by default ``main``.
        create_pr: Whether to open a pull request instead.
        key: Private key to sign with, see :func:`signing.sign`.

    Returns:
        What the Hub says of the commit.

    Raises:
        ValueError: The folder has no evidence, does not agree with its manifest, or would give away a token or a path
            of this machine; the repository holds files that :func:`fetched` refuses; or no such gate.
        ConnectionError: The Hub cannot be reached, or refuses; nothing is half-published.
    """
    if gated is not None and gated not in GATES:
        raise ValueError(f"gated must be one of {', '.join(GATES)}; got {gated!r}.")
    if create_pr and revision:
        raise ValueError("a pull request goes to main; leave revision or create_pr out.")
    with (
        staged(folder, gated=gated, key=key) as copy,
        _one_line("the Hub", repo_id, "push", "nothing is half-published"),
    ):
        return _commit(
            HfApi(token=token), copy, repo_id, message, private=private, revision=revision, create_pr=create_pr
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
    with _one_line("the Hub", repo_id, "verify", "nothing was verified"):
        held = api.model_info(repo_id, revision=revision)
        names = [s.rfilename for s in held.siblings or ()]
        if found := suspects(names):
            raise ValueError(f"{repo_id} holds {found[0]}, which can run code or hide weights; refused.")
        if MANIFEST not in names:
            raise ValueError(f"{repo_id} has no {MANIFEST}: it is not a hardened model that was published whole.")
        folder = Path(api.hf_hub_download(repo_id, MANIFEST, revision=held.sha)).parents[1]
        listed = {*read_manifest(folder, links=blobs_of(folder)).files, MANIFEST, SIGNATURE}
        if others := sorted(name for name in names if name not in listed and not is_left_by_download(name)):
            raise ValueError(f"{repo_id} holds {others[0]}, which its manifest does not list; refused.")
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


def _commit(
    api: HfApi, copy: Path, name: str, message: str, *, private: bool | None, revision: str | None, create_pr: bool
) -> CommitInfo:
    repo = api.create_repo(name, private=private, exist_ok=True).repo_id
    if revision:
        api.create_branch(repo, branch=revision, exist_ok=True)
    held = api.model_info(repo, revision=revision)
    names = [s.rfilename for s in held.siblings or ()]
    if found := suspects(name for name in names if name != LEFT_BY_TRAINER):
        raise ValueError(
            f"{repo} holds {found[0]}, which can run code or hide weights: nobody could verify what is pushed "
            "there. Delete it there, or push to another repository."
        )
    if mode := details_of(copy).gate.mode:
        api.update_repo_settings(repo, gated="auto" if mode == "auto" else "manual")
    sent = staged_files(copy)
    stale = [name for name in names if name not in sent and _ours(name)]
    operations = [CommitOperationAdd(path, copy / path) for path in sent]
    return api.create_commit(
        repo,
        [*operations, *map(CommitOperationDelete, stale)],
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
        parent_commit=held.sha,
    )


def _ours(path: str) -> bool:
    """Whether a file in a repository is of the kinds we publish, or Trainer's; ``*`` stays within a folder."""
    patterns = [p for p in (*PUBLISHED, MANIFEST, SIGNATURE, LEFT_BY_TRAINER) if p.count("/") == path.count("/")]
    return any(fnmatch(path, pattern) for pattern in patterns)


@contextmanager
def _one_line(who: str, what: str, verb: str, left: str) -> Iterator[None]:
    """Turns what the client raises into one line that says what to do, without its token.

    Args:
        who: Who was asked.
        what: For what.
        verb: What to do again after the cure.
        left: What the failure left behind.
    """
    try:
        yield
    except LocalTokenNotFoundError:
        raise ConnectionError(f"no Hub token: {LOG_IN}, and {verb} again.") from None
    except HfHubHTTPError as error:
        raise ConnectionError(f"{who} refused {what!r} {_why(error)}, and {verb} again; {left}.") from None
    # The client's own failures to connect are no OSError, and an upload's is a RuntimeError around one.
    except (HTTPError, OSError, RuntimeError) as error:
        raise ConnectionError(
            f"{who} could not be reached ({type(error).__name__}): check the network and {verb} again; {left}."
        ) from None


def _why(error: HfHubHTTPError) -> str:
    code = error.response.status_code if error.response is not None else "no status"
    if code == 401:
        return f"(401): there is no token, or not one that it knows: {LOG_IN}"
    if code == 412:
        return "(412): somebody else has just pushed there: look at what"
    return f"({code}): check the name and what the token may do there"
