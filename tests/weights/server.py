"""A server on the loopback address: files in parts, hosts that hang up, and a part of the hub."""

import gzip
import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

COMMIT = "0123456789" * 4


def checkpoint(content: object, **kwargs) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content_of(folder: Path) -> list[str]:
    """The files at all depths, without the hidden ones: locks."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    hidden = [p for p in files if p.name.startswith(".")]
    assert all(p.name.endswith(".lock") for p in hidden)
    return sorted(p.name for p in files if not p.name.startswith("."))


class Server(ThreadingHTTPServer):
    """Serves ``files``, by their paths."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # paths and ranges
        self.cuts: list[int] = []  # bytes after which to hang up, one for each of the next requests
        self.busy = 0  # how many of the next requests get 503
        self.errors: dict[str, tuple[int, str]] = {}  # start of a path: status, the hub's word
        self.headers = {"X-Repo-Commit": COMMIT}
        self.ranges = True
        self.shift = 0  # of the parts that are sent against those asked for
        self.length = True
        self.checks_if_range = True
        self.compresses = False  # for those that accept it
        self.before_body = lambda: None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address):
        """Whoever is done reading may hang up, too."""


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        server = self.server
        path = self.path.partition("?")[0]
        if body:
            server.requests.append((self.path, self.headers["Range"]))
        if server.busy:
            server.busy -= 1
            return self.refuse(503)
        for start, (status, word) in server.errors.items():
            if path.startswith(start):
                return self.refuse(status, word)
        content = server.files.get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        self.send(content, body)

    def refuse(self, status: int, word: str = ""):
        self.send_response(status)
        self.send_header("X-Error-Code", word)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes, body: bool):
        server = self.server
        etag = f'"{sha256(content)}"'
        start = self.start_of_part(etag)
        if start is not None and start >= len(content):
            return self.refuse(416)
        self.send_response(200 if start is None else 206)
        if start is not None:
            start += server.shift
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in {"ETag": etag, **server.headers}.items():
            if value:
                self.send_header(name, value)
        part = content[start or 0 :]
        if server.compresses and "gzip" in self.headers.get("Accept-Encoding", ""):
            part = gzip.compress(part)
            self.send_header("Content-Encoding", "gzip")
        if server.length:
            self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            server.before_body()
            self.wfile.write(part[: server.cuts.pop(0)] if server.cuts else part)

    def start_of_part(self, etag: str) -> int | None:
        asked = self.headers["Range"]
        validators = (etag, self.server.headers.get("Last-Modified"))
        if not asked or not self.server.ranges:
            return None
        if self.server.checks_if_range and self.headers["If-Range"] not in validators:
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *args):
        pass


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
