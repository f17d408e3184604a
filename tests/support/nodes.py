"""Nodes for tests: in this process, or as `penstock serve` in one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
from support.declarations import CHUNK_TOKENS
from support.eventually import eventually

from penstock.actors.node import Node
from penstock.protos import control_pb2, control_pb2_grpc, engine_pb2, engine_pb2_grpc
from penstock.runtime.units import MIB

SMALL: Mapping[str, object] = {
    "l1.bytes": 4 * MIB,
    "chunk_tokens": CHUNK_TOKENS,
    "l1.memory_reserve": 0,
    "l1.prefault_threads": 0,
    "l1.quarantine_max": 1.0,
    "gateway.stop_within": 0.5,
}


def below() -> list[dict[str, object]]:
    """The stores of a node whose test names none: none. The fixture `stores_below` puts others in this one's place."""
    return []


def _given(overrides: Mapping[str, object]) -> dict[str, object]:
    given = {**SMALL, **{key.replace("__", "."): value for key, value in overrides.items()}}
    if "stores" not in given and (stores := below()):
        given["stores"] = stores
    return given


@asynccontextmanager
async def local_node(**overrides: object) -> AsyncIterator[Node]:
    """A small node in this process. A key is written with __ for a dot: `l1__bytes=...`."""
    given = _given(overrides)
    l1_bytes = given.pop("l1.bytes")
    assert isinstance(l1_bytes, (int, str))
    async with Node.local(l1_bytes=l1_bytes, overrides=given) as node:
        yield node


async def nobody_reads(node: Node, *, leases: int = 0) -> None:
    """Wait until only so many leases are left. What is being saved is held meanwhile, too: wait for `saved` before."""

    async def is_so() -> bool:
        return (await node.usage()).leases == leases

    await eventually(is_so, within=5, what=f"{leases} leases are left")


class ServedNode:
    """A `penstock serve` that is ready."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, log: Path) -> None:
        self.process = process
        self.address = address
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def stat(self) -> engine_pb2.StatReply:
        with self.channel() as channel:
            stub = engine_pb2_grpc.EngineStub(channel)
            return stub.Stat(engine_pb2.StatRequest(), timeout=10)

    def health(self) -> engine_pb2.HealthReply:
        with self.channel() as channel:
            stub = engine_pb2_grpc.EngineStub(channel)
            return stub.Health(engine_pb2.HealthRequest(), timeout=10)

    def metrics(self) -> str:
        with self.channel() as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            return stub.Metrics(control_pb2.MetricsRequest(), timeout=10).text

    def channel(self) -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(self.address.replace("unix://", "unix:"), options=options)


def serve_command(
    state_dir: Path, *, ready_fd: int | None = None, program: str = "", **overrides: object
) -> list[str]:
    """The command line of a node. `program`: a script to run in the installed command's place."""
    given = _given(overrides)
    given["state_dir"] = state_dir
    command = [program] if program else ["-m", "penstock.actors.cli.main"]
    words = [sys.executable, *command, "serve"]
    for key, value in given.items():
        text = json.dumps(value) if isinstance(value, (list, dict)) else value
        words += ["--set", f"{key}={text}"]
    return words if ready_fd is None else [*words, "--ready-fd", str(ready_fd)]


@contextmanager
def served_node(
    state_dir: Path, *, command_prefix: tuple[str, ...] = (), program: str = "", **overrides: object
) -> Iterator[ServedNode]:
    """A node process while the body runs; it is killed at the end if it still lives.

    Raises RuntimeError with its log when it does not become ready.
    """
    read_fd, write_fd = os.pipe()
    log = Path(tempfile.mkstemp(dir=state_dir.parent, prefix="node-", suffix=".log")[1])
    command = [
        *command_prefix,
        *serve_command(state_dir, ready_fd=write_fd, program=program, **overrides),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, pass_fds=[write_fd], stderr=stream, stdout=stream)
    os.close(write_fd)
    try:
        with os.fdopen(read_fd) as ready:
            address = ready.readline().strip()
        if not address:
            status = process.wait(10)
            raise RuntimeError(f"serve ended with {status}:\n{log.read_text()}")
        yield ServedNode(process, address, log)
    finally:
        process.kill()
        process.wait()
