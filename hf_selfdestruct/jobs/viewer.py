"""Show reports in a browser: whether their folders verify, and each as a page in a frame that can do nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import printable, reason
from ..publish.card import details_of
from ..publish.hub import fetched_evidence
from ..publish.layout import REPORT
from ..publish.page import page_of
from ..report.report import AttackReport
from .verification import HUB, repository_of, verify

if TYPE_CHECKING:
    from gradio import Blocks

HOST = "127.0.0.1"
PASSED, FAILED, NOT_VERIFIED = "Verification passed", "Verification FAILED", "Not verified"
WHAT = """# Reports of hardened models
Name a model on the Hub (owner/name){more}. What was verified of a report stands above it."""
WORDS = """<div role="status"><strong>{verdict}</strong>
<p style="max-height: 12rem; overflow-y: auto; white-space: pre-line; overflow-wrap: anywhere"
>{lines}</p></div>
"""
# Everything is forbidden in the frame, scripts above all; the page's own policy forbids requests to the network.
FRAME = """<iframe sandbox referrerpolicy="no-referrer" title="Report of {source}" srcdoc="{page}"
style="width: 100%; height: 85vh; margin-top: 8px; border: 1px solid #888; border-radius: 6px"></iframe>
"""


def shown(source: str, folders: Collection[str] = ()) -> str:
    """Render a hardened folder or repository as HTML: whether it verifies, and its report.

    Args:
        source: A repository as ``owner/name``, or one of ``folders``; nothing else is opened.
        folders: Folders that may be opened.

    Returns:
        HTML that words of the report cannot add to: they are escaped, and its page lies in a frame without any right.
        Empty for an empty source.

    Example:
        >>> "hf://a/b/c is not a repository" in shown("a/b/c")
        True
    """
    if not source.strip():
        return ""
    try:
        folder, verdict, lines = _found(source, folders)
    except (ValueError, OSError) as error:
        return _words("Not opened", [reason(error)])
    try:
        page = page_of(AttackReport.load(folder / REPORT), details_of(folder))
    except (ValueError, OSError) as error:
        return _words(verdict, [*lines, f"The report cannot be shown: {reason(error)}"])
    return _words(verdict, lines) + FRAME.format(source=escape(printable(source)), page=escape(page))


def viewer_of(sources: Sequence[str] = ()) -> Blocks:
    """Build the app: two places side by side for reports, the second one hidden until it is asked for.

    Args:
        sources: Folders and repositories to open first. Only these folders can be opened, but any repository.

    Returns:
        The app, not launched; its endpoint ``/shown`` answers with the HTML of one source.

    Raises:
        ValueError: The extra ``view`` is not installed.
    """
    _extra()
    import gradio

    def show(source: str) -> str:
        return shown(source, sources)

    first = [*sources, "", ""][:2]
    with gradio.Blocks(title="Reports of hardened models", analytics_enabled=False, fill_width=True) as app:
        gradio.Markdown(WHAT.format(more=", or a folder that the command line named" if sources else ""))
        with gradio.Row():
            for label, source, visibility in zip(("Model", "Other model"), first, ("public", "private"), strict=True):
                with gradio.Column(visible=label == "Model" or bool(source), min_width=320) as column:
                    name = gradio.Textbox(source, label=label, placeholder="owner/name", submit_btn="Show")
                    report = gradio.HTML()
                gradio.on([app.load, name.submit], show, name, report, api_name="shown", api_visibility=visibility)
        more = gradio.Button("Compare with another report", visible=not first[1])
        turns = (gradio.update(visible=False), gradio.update(visible=True))
        more.click(lambda: turns, outputs=[more, column], api_visibility="private")
    return app


def serve(sources: Sequence[str], port: int | None, announce: Callable[[str], None]) -> None:
    """Serve the app on this machine alone until the user interrupts it.

    Args:
        sources: Folders and repositories to open.
        port: Port of ``127.0.0.1``; by default the first free one that gradio finds.
        announce: Receives a line with the address, once the app answers.

    Raises:
        ValueError: A source is neither a folder nor a repository, the port cannot be used, or the extra ``view`` is
            not installed.
    """
    for source in sources:
        repository_of(source)
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"--port must be from 1 to 65535; got {port}.")
    app = viewer_of(sources)
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Otherwise a web site could read the answers by making its own name point to this machine.
    own_name = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    local: dict[str, Any] = {"server_name": HOST, "server_port": port, "share": False, "ssr_mode": False}
    silent: dict[str, Any] = {"quiet": True, "footer_links": [], "run_history": False, "enable_monitoring": False}
    try:
        _, address, _ = app.launch(**local, **silent, app_kwargs={"middleware": [own_name]}, prevent_thread_lock=True)
    except OSError:
        raise ValueError(f"port {port or 'range'} of {HOST} is in use; pass another --port.") from None
    with suppress(KeyboardInterrupt):
        announce(f"Open {address} in a browser. Ctrl-C stops the viewer.\n")
        threading.Event().wait()
    app.close(verbose=False)


def _found(source: str, folders: Collection[str]) -> tuple[Path, str, list[str]]:
    """Return the folder of a source, the verdict on it, and what the verdict rests on."""
    # A folder that was not given is taken for a repository: strangers must not learn what lies on this machine.
    repository = repository_of(source if source in folders else f"{HUB}{source.strip().removeprefix(HUB)}")
    if repository:
        folder = fetched_evidence(repository)
        what = f"{repository}@{folder.name}: weights were not downloaded; their hashes were not checked"
        return folder, NOT_VERIFIED, [f"{what}. To check every file, run: hf-selfdestruct verify {HUB}{repository}"]
    try:
        verification = verify(source)
    except ValueError as error:
        return Path(source), NOT_VERIFIED, [reason(error)]
    return Path(source), FAILED if verification.problems else PASSED, verification.lines()


def _words(verdict: str, lines: Sequence[str]) -> str:
    return WORDS.format(verdict=verdict, lines=escape("\n".join(lines)))


def _extra() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise ValueError("the viewer needs the extra `view`: pip install 'hf-selfdestruct[view]'.") from None
