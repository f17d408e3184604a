"""TLS in front of a server that speaks none: it asks for a client certificate, and passes the rest on."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def tls_proxy(files: Mapping[str, Path], port: int) -> Iterator[int]:
    """Its own port, to `port` of the loopback. `files` as by `tls_files`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files["ca"])
    context.load_cert_chain(files["server"], files["server_key"])
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_accept, args=(listening, context, port))
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(listening: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError):
        while True:
            near, _ = listening.accept()
            threading.Thread(target=_serve, args=(near, context, port), daemon=True).start()


def _serve(near: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """One thread, as a TLS socket is not to be read and written by two."""
    with suppress(OSError), near, context.wrap_socket(near, server_side=True) as link:
        with socket.create_connection(("127.0.0.1", port)) as far:
            link.settimeout(0.01)
            far.settimeout(0.01)
            while True:
                for source, target in ((link, far), (far, link)):
                    with suppress(TimeoutError):
                        data = source.recv(1 << 20)
                        if not data:
                            return
                        target.settimeout(10)
                        target.sendall(data)
                        target.settimeout(0.01)
