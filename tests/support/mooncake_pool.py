"""A real Mooncake pool: a master and one machine's memory, processes of their own on ports of the loopback."""

from __future__ import annotations

import atexit
import importlib.util
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from penstock.runtime.units import MIB

STARTED_WITHIN_S = 15.0
SEGMENT_BYTES = 256 * MIB
HOST = "127.0.0.1"


class MooncakePool:
    """Processes that may be killed, stopped and started again on the same ports."""

    def __init__(self, segment_bytes: int) -> None:
        self.port, metrics, self._client_port = free_ports(3)
        self._segment_bytes = segment_bytes
        self._master_flags = (
            f"--rpc_port={self.port}",
            f"--rpc_address={HOST}",
            f"--metrics_port={metrics}",
            f"--metrics_host={HOST}",
            "--default_kv_lease_ttl=500",
            "--client_ttl=5",
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start_master()
        self.start_segment()

    @property
    def master(self) -> str:
        return f"{HOST}:{self.port}"

    def start_master(self) -> None:
        self.master_process = self._start("mooncake_master", self._master_flags)
        wait_for_port(self.port, self.master_process)

    def start_segment(self) -> None:
        """A machine that gives memory, and does nothing else."""
        flags = (
            f"--host={HOST}",
            f"--port={self._client_port}",
            f"--master_server_address={self.master}",
            "--metadata_server=P2PHANDSHAKE",
            f"--global_segment_size={self._segment_bytes}",
        )
        self.segment_process = self._start("mooncake_client", flags)
        wait_for_port(self._client_port, self.segment_process)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)

    def close(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                self.kill(process)

    def _start(self, program: str, flags: tuple[str, ...]) -> subprocess.Popen[bytes]:
        path = Path(sysconfig.get_path("scripts")) / program
        if not path.exists():
            pytest.skip("pip install penstock[mooncake]")
        process = subprocess.Popen(
            [path, *flags, "--logtostderr", "--minloglevel=3"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process


@contextmanager
def mooncake_pool(*, segment_bytes: int = SEGMENT_BYTES) -> Iterator[MooncakePool]:
    if (
        importlib.util.find_spec("mooncake") is None
    ):  # not loaded here: that is the store's, who tames it
        pytest.skip("pip install penstock[mooncake]")
    with ExitStack() as stack:
        pool = MooncakePool(segment_bytes)
        stack.callback(pool.close)
        yield pool


@cache
def shared_mooncake_pool() -> MooncakePool:
    """One for all tests of this process, which ends with it."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(mooncake_pool())


def free_ports(count: int) -> list[int]:
    """Of the loopback; different ones."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + STARTED_WITHIN_S
    while True:
        with suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        code = process.poll()
        assert code is None, f"{process.args!r} ended with {code}"
        assert time.monotonic() < ends_s, f"{process.args!r} does not listen"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
