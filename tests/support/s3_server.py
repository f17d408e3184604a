"""A real S3 server, of moto's, in a process of its own on a port of the loopback."""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

STARTED_WITHIN_S = 15.0


@dataclass(frozen=True)
class S3Server:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """The reference client, to look at what is there without ours."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="looker",
            aws_secret_access_key="on",
            region_name="us-east-1",
        )

    def new_bucket(self) -> str:
        """An empty one."""
        name = f"bucket-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name)
        return name

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask flask-cors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    server = S3Server(port, process)
    try:
        _wait_for(server)
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.go_on()
        server.kill()


@cache
def shared_s3_server() -> S3Server:
    """One for all tests of this process, which ends with it."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(s3_server())


def _wait_for(server: S3Server) -> None:
    ends_s = time.monotonic() + STARTED_WITHIN_S
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return
        code = server.process.poll()
        assert code is None, f"moto ended with {code}"
        assert time.monotonic() < ends_s, "moto does not listen"
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(0.05)


@contextmanager
def secret_files(directory: Path) -> Iterator[dict[str, Path]]:
    """Credentials as files, of a key that moto takes as any other."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {
        "access_key_id": "AKIAPENSTOCKTEST",
        "secret_access_key": "wJalrXUtnFEMI-not-to-be-seen",
    }
    files = {name: directory / name for name in values}
    for name, path in files.items():
        path.write_text(values[name] + "\n")
    yield files
