"""What a loopback Hub holds: repositories, their commits, and what is to go wrong."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

Files = dict[str, bytes]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        kind: ``cut`` (the connection closes before anything happened), ``lost`` (it happened, the answer never comes),
            ``half`` (half of the answer comes), ``slow`` (the answer comes after ``seconds``) or ``status``.
        status: The answer's status, where ``kind`` is ``status``.
        seconds: The delay, where ``kind`` is ``slow``.
        over: Ends the delay early.
    """

    kind: str
    status: int = 500
    seconds: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Commit:
    """One commit: what it is called, and all files at it."""

    oid: str
    title: str
    files: Files
    changed: tuple[str, ...]


FIRST = Commit("1" * 40, "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"}, (".gitattributes",))


@dataclass
class Repo:
    """A repository: its settings, and the commits of each branch, oldest first; the Hub makes the first one itself."""

    private: bool = False
    gated: str | bool = False
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [FIRST]})
    pull_requests: int = 0

    def commits(self, revision: str = "main") -> list[Commit]:
        """The commits of a branch, or up to a commit; none where there is no such revision."""
        if revision in self.branches:
            return self.branches[revision]
        return [c for commits in self.branches.values() for c in commits if c.oid == revision]

    def files(self, revision: str = "main") -> Files:
        """The files at a revision."""
        commits = self.commits(revision)
        return commits[-1].files if commits else {}


def is_large(path: str) -> bool:
    """Whether the Hub keeps a file in LFS."""
    return path.endswith((".safetensors", ".png", ".sig"))


def oid_of(path: str, content: bytes) -> str:
    """What the Hub tells of a file's content: SHA-256 in LFS, git's blob hash otherwise."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A line of a tree."""
    facts: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid_of(path, content)}
    if is_large(path):
        facts["lfs"] = {"oid": facts["oid"], "size": len(content), "pointerSize": 134}
    return facts


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    "POST /api/repos/create": ("create", "writer"),
    "POST /api/validate-yaml": ("validate", "anyone"),
    "GET /api/whoami-v2": ("whoami", "writer"),
    rf"PUT /api/models/{REPO}/settings": ("settings", "writer"),
    rf"POST /api/models/{REPO}/branch/([^/]+)": ("branch", "writer"),
    rf"POST /api/models/{REPO}/preupload/([^/]+)": ("preupload", "writer"),
    rf"POST /{REPO}\.git/info/lfs/objects/batch": ("lfs", "writer"),
    rf"POST /{REPO}\.git/info/lfs/verify": ("verify", "writer"),
    r"PUT /objects/(\w+)": ("upload", "presigned"),
    rf"POST /api/models/{REPO}/commit/([^/]+)": ("commit", "writer"),
    rf"GET /api/models/{REPO}/revision/([^/]+)": ("info", "anyone"),
    rf"GET /api/models/{REPO}/tree/([^/]+)": ("tree", "anyone"),
    rf"GET /api/models/{REPO}": ("info", "anyone"),
    rf"(?:GET|HEAD) /{REPO}/resolve/([^/]+)/(.+)": ("resolve", "anyone"),
}
