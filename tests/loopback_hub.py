"""A small Hub on loopback, for the real ``huggingface_hub`` client over real HTTP.

Our reading of the protocol, from the client's source and its traffic; it is not the Hub. Spoken: creating repositories,
branches and pull requests, settings (gating, visibility), validation of cards, pre-upload, LFS batch, upload and
verify, commits with parents, revisions, trees, and resolving files with ETags. Not spoken: Xet (set
``HF_HUB_DISABLE_XET=1``), multipart uploads, resumed downloads.

    with LoopbackHub() as hub:
        hub.faults["POST", 2] = Fault("cut")  # the second POST is never answered
        ...  # a client in a process of its own, with HF_ENDPOINT=hub.url
        assert hub.repos["tester/hardened"].files() == {...}
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_repos import ROUTES, Commit, Fault, Repo, entry, is_large, oid_of


class LoopbackHub(ThreadingHTTPServer):
    """Repositories in memory. Only ``token`` may write; strangers may read what is neither private nor gated.

    Attributes:
        faults: Method and number of the request among those of this method (from 1), or ``("*", number)`` among all, to
            what goes wrong with it.
        down_from: Number of the request from which on every connection is cut; 0 for none.
        refuse: Status of every answer; 0 for none.
        renamed: Old names of repositories to new ones, to which the answer ``moved`` redirects.
        requests: ``"METHOD path"`` of every request, in order.
    """

    daemon_threads = True

    def __init__(self, token: str = "hf_x") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.refuse, self.down_from = token, 0, 0
        self.renamed: dict[str, str] = {}
        self.moved = 307
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: dict[tuple[str, int], Fault] = {}
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()

    def forget(self) -> None:
        """Empty again: no repository, object, request or fault."""
        with self.lock:
            self.down_from = 0
            for held in (self.repos, self.objects, self.faults, self.requests, self._counts):
                held.clear()

    def count(self, method: str, path: str) -> Fault | None:
        """Note a request; what is to go wrong with it."""
        with self.lock:
            self.requests.append(f"{method} {path}")
            self._counts[method] += 1
            number = len(self.requests)
            if self.down_from and number >= self.down_from:
                return Fault("cut")
            return self.faults.get((method, self._counts[method])) or self.faults.get(("*", number))


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fault = self.server.count(self.command, unquote(parts.path))
        if self.fault and self.fault.kind == "cut":
            return self.cut()
        if self.fault and self.fault.kind == "slow":
            self.fault.over.wait(self.fault.seconds)
        if self.fault and self.fault.kind == "status":
            return self.answer({"error": "by command"}, self.fault.status)
        return self.route(parts.path)

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def route(self, path: str) -> None:
        self.known = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        for old, new in self.server.renamed.items():
            if f"/{old}/" in f"{path}/":
                return self.answer({}, self.server.moved, Location=path.replace(old, new))
        for pattern, (name, who) in ROUTES.items():
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if not found:
                continue
            if who == "writer" and not self.known:
                return self.answer({"error": "Invalid username or password."}, 401)
            if self.server.refuse and who != "presigned":
                return self.answer({"error": "No right."}, self.server.refuse)
            with self.server.lock:
                return getattr(self, name)(*map(unquote, found.groups()))
        return self.answer({"error": f"no route for {self.command} {path}"}, 404)

    def cut(self) -> None:
        self.close_connection = True

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if self.fault and self.fault.kind == "lost":
            return self.cut()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = bool(self.fault and self.fault.kind == "half")
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
        self.close_connection = self.close_connection or half
        return None

    def missing(self, code: str) -> None:
        self.answer({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

    def readable(self, name: str, *, files: bool) -> Repo | None:
        """A repository this client may read; otherwise the answer has been sent."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and not self.known):
            self.missing("RepoNotFound")
            return None
        if files and repo.gated and not self.known:
            self.answer({"error": "gated"}, 401, X_Error_Code="GatedRepo", X_Error_Message="gated")
            return None
        return repo

    # Writing

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        status = 409 if name in {*self.server.repos, *self.server.renamed} else 200
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        if name not in self.server.renamed:
            self.server.repos.setdefault(name, Repo(private=private))
        self.answer({"url": f"{self.server.url}/{name}", "id": name, "name": name}, status)

    def settings(self, name: str) -> None:
        wanted, repo = json.loads(self.body), self.server.repos[name]
        repo.gated = wanted.get("gated", repo.gated)
        repo.private = {"private": True, "public": False}.get(wanted.get("visibility"), repo.private)
        self.answer({})

    def branch(self, name: str, revision: str) -> None:
        repo = self.server.repos[name]
        status = 409 if revision in repo.branches else 200
        repo.branches.setdefault(revision, list(repo.branches["main"]))
        self.answer({}, status)

    def validate(self) -> None:
        head = json.loads(self.body)["content"].split("---\n")
        errors = [] if len(head) > 2 and head[0] == "" else [{"message": "no metadata"}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str, revision: str) -> None:
        if (repo := self.readable(name, files=False)) is None:
            return None
        if revision not in repo.branches:
            return self.missing("RevisionNotFound")
        held = repo.files(revision)

        def facts(file: dict[str, Any]) -> dict[str, Any]:
            path = file["path"]
            return {
                "path": path,
                "uploadMode": "lfs" if is_large(path) else "regular",
                "shouldIgnore": False,
                "oid": oid_of(path, held[path]) if path in held else None,
            }

        self.answer({"files": [facts(f) for f in json.loads(self.body)["files"]]})
        return None

    def lfs(self, name: str) -> None:
        def facts(wanted: dict[str, Any]) -> dict[str, Any]:
            if wanted["oid"] in self.server.objects:
                return wanted
            upload = {"href": f"{self.server.url}/objects/{wanted['oid']}", "header": {}}
            verify = {"href": f"{self.server.url}/{name}.git/info/lfs/verify"}
            return {**wanted, "actions": {"upload": upload, "verify": verify}}

        self.answer({"transfer": "basic", "objects": [facts(o) for o in json.loads(self.body)["objects"]]})

    def upload(self, oid: str) -> None:
        assert self.headers.get("Authorization") is None, "a token was sent to a pre-signed address"
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer({"error": "hash mismatch"}, 400)
        self.server.objects[oid] = self.body
        return self.answer(b"")

    def verify(self, _: str) -> None:
        wanted = json.loads(self.body)
        held = self.server.objects.get(wanted["oid"])
        self.answer({}, 200 if held is not None and len(held) == wanted["size"] else 404)

    def commit(self, name: str, revision: str) -> None:
        repo, lines = self.server.repos[name], [json.loads(line) for line in self.body.decode().splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if revision not in repo.branches:
            return self.missing("RevisionNotFound")
        before = repo.branches[revision]
        if header.get("parentCommit") and header["parentCommit"] != before[-1].oid:
            return self.answer({"error": "parent is no longer the tip"}, 412)
        files, changed = dict(repo.files(revision)), []
        for line in lines:
            if line["key"] == "header":
                continue
            value, path = line["value"], line["value"]["path"]
            changed.append(path)
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[path]
            else:
                return self.answer({"error": f"unknown key {line['key']}"}, 400)
        facts = {}
        if self.query.get("create_pr") == ["1"]:
            repo.pull_requests += 1
            revision = f"refs/pr/{repo.pull_requests}"
            facts["pullRequestUrl"] = f"{self.server.url}/{name}/discussions/{repo.pull_requests}"
        number = sum(map(len, repo.branches.values())) + 1
        oid = hashlib.sha1(f"{name} {revision} {number}".encode()).hexdigest()
        repo.branches[revision] = [*before, Commit(oid, header["summary"], files, tuple(sorted(changed)))]
        return self.answer({"commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}", **facts})

    # Reading

    def whoami(self) -> None:
        self.answer({"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def info(self, name: str, revision: str = "main") -> None:
        if (repo := self.readable(name, files=False)) is None:
            return None
        commits = repo.commits(revision)
        if not commits:
            return self.missing("RevisionNotFound")
        siblings = [{"rfilename": path, "size": len(held)} for path, held in sorted(repo.files(revision).items())]
        facts = {
            "id": name,
            "modelId": name,
            "sha": commits[-1].oid,
            "private": repo.private,
            "gated": repo.gated,
            "tags": [],
        }
        self.answer({**facts, "siblings": siblings, "downloads": 0, "likes": 0})
        return None

    def tree(self, name: str, revision: str) -> None:
        if (repo := self.readable(name, files=False)) is None:
            return None
        if not repo.commits(revision):
            return self.missing("RevisionNotFound")
        self.answer([entry(path, content) for path, content in sorted(repo.files(revision).items())])
        return None

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (repo := self.readable(name, files=True)) is None:
            return None
        commits = repo.commits(revision)
        if not commits:
            return self.missing("RevisionNotFound")
        if path not in commits[-1].files:
            return self.missing("EntryNotFound")
        content = commits[-1].files[path]
        self.answer(content, ETag=f'"{oid_of(path, content)}"', X_Repo_Commit=commits[-1].oid)
        return None
