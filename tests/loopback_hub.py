"""A small Hub on loopback: our reading of what the real client needs to publish a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackHub(ThreadingHTTPServer):
    """Repositories in memory; only ``token`` may write, and nobody where ``refuse`` is a status."""

    daemon_threads = True

    def __init__(self, token: str = "hf_x") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.refuse = token, 0
        self.repos: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def answer(self, content: Any, status: int = 200) -> None:
        self.send_response(status)
        body = json.dumps(content).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path.startswith("/objects/"):  # pre-signed: no token is sent there
            assert self.headers.get("Authorization") is None
            oid = path.rsplit("/", 1)[1]
            assert hashlib.sha256(self.body).hexdigest() == oid
            self.server.objects[oid] = self.body
            return self.answer({})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.server.refuse:
            return self.answer({"error": "No right."}, self.server.refuse)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        for pattern, method in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return getattr(self, method)(*found.groups())
        return self.answer({"error": f"no route for {self.command} {path}"}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def create(self) -> None:
        wanted = json.loads(self.body)
        repo = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        self.answer({"url": f"{self.server.url}/{repo}", "id": repo}, 409 if repo in self.server.repos else 200)
        self.server.repos.setdefault(repo, {})

    def preupload(self, repo: str) -> None:
        def facts(file: dict[str, Any]) -> dict[str, Any]:
            large = file["path"].endswith((".safetensors", ".png"))
            return {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": None,
            }

        self.answer({"files": [facts(f) for f in json.loads(self.body)["files"]]})

    def lfs(self, repo: str) -> None:
        def facts(wanted: dict[str, Any]) -> dict[str, Any]:
            if wanted["oid"] in self.server.objects:
                return wanted
            return {**wanted, "actions": {"upload": {"href": f"{self.server.url}/objects/{wanted['oid']}"}}}

        self.answer({"transfer": "basic", "objects": [facts(o) for o in json.loads(self.body)["objects"]]})

    def commit(self, repo: str) -> None:
        files = {}
        for line in map(json.loads, self.body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        self.server.repos[repo].update(files)
        self.server.commits.append({"repo": repo, "paths": sorted(files)})
        oid = f"{len(self.server.commits):040x}"
        self.answer({"commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    "POST /api/repos/create": "create",
    rf"POST /api/models/{REPO}/preupload/main": "preupload",
    rf"POST /{REPO}\.git/info/lfs/objects/batch": "lfs",
    rf"POST /api/models/{REPO}/commit/main": "commit",
}
