"""As much of Azure's blob service as NIXL's plugin asks for, on a port of the loopback: put, put in blocks, get a
range, head. What is put is shown when all of it has come."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

ACCOUNT = "tester"
KEY = "dGVzdA=="  # it is not checked
CONTAINER = "objects"
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class BlobServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.blocks: dict[tuple[str, str], bytes] = {}
        self.lock = threading.Lock()
        self.is_failing = False

    @property
    def parameters(self) -> dict[str, str]:
        """Of the plugin."""
        account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY}"
        endpoint = f"http://127.0.0.1:{self.server_address[1]}/{ACCOUNT}"
        return {
            "connection_string": f"{account};BlobEndpoint={endpoint};",
            "container_name": CONTAINER,
        }


@contextmanager
def blob_server() -> Iterator[BlobServer]:
    server = BlobServer()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go apart: else the second waits 40 ms
    server: BlobServer

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name, query = self._asked()
        what = query.get("comp", [""])[0]
        with self.server.lock:
            if self.server.is_failing:
                self._answer(500)
                return
            if what == "block":
                self.server.blocks[name, query["blockid"][0]] = body
            elif what == "blocklist":
                ids = re.findall(r"<(?:Latest|Uncommitted)>([^<]+)<", body.decode())
                self.server.blobs[name] = b"".join(self.server.blocks.pop((name, i)) for i in ids)
            else:
                self.server.blobs[name] = body
        self._answer(201, {"x-ms-request-server-encrypted": "true"})

    def do_GET(self) -> None:
        self._give(is_head=False)

    def do_HEAD(self) -> None:
        self._give(is_head=True)

    def _give(self, *, is_head: bool) -> None:
        name, _ = self._asked()
        with self.server.lock:
            blob = self.server.blobs.get(name)
            is_failing = self.server.is_failing
        if is_failing or blob is None:
            missing = {} if is_failing else {"x-ms-error-code": "BlobNotFound"}
            self._answer(500 if is_failing else 404, missing)
            return
        told = {"x-ms-blob-type": "BlockBlob", "x-ms-server-encrypted": "true"}
        told |= {"x-ms-creation-time": DATE, "Content-Type": "application/octet-stream"}
        asked = self.headers.get("x-ms-range") or self.headers.get("Range")
        if is_head or not asked:
            self._answer(200, told, blob, is_head=is_head)
            return
        first, last = asked.removeprefix("bytes=").split("-")
        start = int(first)
        end = min(int(last or len(blob)), len(blob) - 1)
        if start > end:
            self._answer(416, {"x-ms-error-code": "InvalidRange"})
            return
        told["Content-Range"] = f"bytes {start}-{end}/{len(blob)}"
        self._answer(206, told, blob[start : end + 1])

    def _answer(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        is_head: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {"ETag": '"1"', "Last-Modified": DATE, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("x-ms-version", "2020-02-10")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not is_head:
            self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        return unquote(url.path).split(f"/{CONTAINER}/", 1)[-1], parse_qs(url.query)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""
