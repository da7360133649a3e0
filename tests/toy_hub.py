"""A client of a loopback Hub in a process of its own, and what tests ask of both."""

from __future__ import annotations

from typing import Any

from huggingface_hub import constants
from toy_project import run_cli


def hub_settings(url: str, token: str | None = "hf_x") -> dict[str, str]:
    """Variables that the client reads when it is imported."""
    settings = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    return {**settings, "HF_TOKEN": token} if token else settings


def run_against(url: str, *words: Any, home: Any, token: str | None = "hf_x", code: str | None = None) -> Any:
    """``hf-selfdestruct WORDS``, or ``code``, against a Hub; its token is never shown."""
    done = run_cli(*words, home=home, code=code, **hub_settings(url, token))
    assert (token or "hf_x") not in done.stdout + done.stderr, "the token was shown"
    return done


def talk_to(hub: Any, monkeypatch: Any, home: Any) -> None:
    """Let the client in this process talk to a Hub; it has read the variables already."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def commits(hub):
    """All commits that somebody pushed."""
    return [c for repo in hub.repos.values() for branch in repo.branches.values() for c in branch[1:]]


def one_line(done, code):
    """The error line of a command that failed."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("hf-selfdestruct: error: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0] == done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    return lines[0]
