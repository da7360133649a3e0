"""Publishing on the Hub: the only room that talks to the network."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

from .manifest import MANIFEST, problems, published_files

LOG_IN = "run `hf auth login`, or set HF_TOKEN, and push again"


def push(
    folder: str | Path,
    repo_id: str,
    *,
    message: str = "Publish hardened model",
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """Upload a hardened folder's published files in one commit.

    The folder is verified first. Nothing but the files of the manifest and the manifest itself goes:
    no pickles, no optimizer state, no logs. Doing it again is safe; equal files are not sent twice.

    Args:
        folder: A hardened folder.
        repo_id: ``name`` or ``owner/name``.
        message: Commit message.
        token: Hub token; by default the one of ``hf auth login`` or ``HF_TOKEN``.
        private: Whether a new repository is private.
        revision: Branch to commit to; by default ``main``.

    Returns:
        What the Hub says of the commit.

    Raises:
        ValueError: The folder has no evidence, or does not agree with its manifest.
        ConnectionError: The Hub cannot be reached, or refuses; nothing is half-published.
    """
    if found := problems(folder):
        raise ValueError(f"{folder} is not published: {'; '.join(found)}.")
    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[*published_files(folder), MANIFEST],
            commit_message=message,
            revision=revision,
        )
    except LocalTokenNotFoundError:
        raise ConnectionError(f"no Hub token: {LOG_IN}.") from None
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "no status"
        advice = "check the name and that the token may write there, and push again"
        if code == 401:
            advice = f"there is no token, or not one that it knows: {LOG_IN}"
        raise ConnectionError(f"the Hub refused {repo_id!r} ({code}): {advice}; nothing is half-published.") from None
    except (HTTPError, OSError) as error:  # the client's own failures to connect are no OSError
        raise ConnectionError(
            f"the Hub could not be reached ({type(error).__name__}): check the network and push again; "
            "nothing is half-published."
        ) from None
