"""An HTTP server of few words: it answers every request as a test says, however wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def http_script(reply: Reply) -> Iterator[str]:
    """Its address, http://127.0.0.1:port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            with suppress(ConnectionError):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                reply(self)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(status: int, body: bytes = b"", **headers: str) -> Reply:
    """This status, these headers (underscores are dashes), this body."""

    def reply(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        given = {"content_length": str(len(body)), **headers}
        for name, value in given.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    return reply
