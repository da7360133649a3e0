"""A text-classification endpoint on loopback that answers what a test wants, byte by byte if need be."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackEndpoint(ThreadingHTTPServer):
    """Answers each text with ``answer(text)``: content for JSON, bytes as they are, or pieces that are sent one by one.

    Attributes:
        status: Of every answer.
        headers: More headers of every answer.
        silent: Whether it never answers.
        requests: The headers and the text of every request.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[str], Any], certificate: Any = None, key: Any = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.status, self.headers, self.silent = answer, 200, {}, False
        self.requests: list[tuple[dict[str, str], str]] = []
        self.ended = threading.Event()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> LoopbackEndpoint:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackEndpoint

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        self.server.requests.append((dict(self.headers), text))
        if self.server.silent:
            self.server.ended.wait(60)
            return
        content = self.server.answer(text)
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if isinstance(content, Iterator):
            self.end_headers()
            for piece in content:
                self.wfile.write(piece)
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST


def endless() -> Iterator[bytes]:
    """A body without end."""
    while True:
        yield b" " * 65536


def dripping() -> Iterator[bytes]:
    """A body that comes a byte at a time."""
    while True:
        yield b" "
        time.sleep(0.05)
