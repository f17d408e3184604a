"""What channels are measured against, each with a process at the other end: bare libraries, a bare socket, iperf3."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from penstock.actors.cli.attended import attended

FAR = Path(__file__).with_name("channel_far.py")
SMALL_BYTES = 4096
MESSAGE_BYTES = 1 << 20
MEMORY_BYTES = 256 << 20
GIB = 2**30


class FarProcess:
    """The other end: JSON lines both ways."""

    def __init__(self, what: str, secret: bytes = b"") -> None:
        command = [sys.executable, str(FAR), what, str(MEMORY_BYTES), secret.hex()]
        self._process = subprocess.Popen(
            attended(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def hear(self) -> dict[str, Any]:
        """The next line that is ours: libraries write to the standard output, too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError("the other end is gone")

    def tell(self, what: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def far(what: str, secret: bytes = b"") -> Iterator[FarProcess]:
    process = FarProcess(what, secret)
    try:
        yield process
    finally:
        process.end()


def new_memory() -> mmap.mmap:
    """Backed, and nowhere the same within a megabyte."""
    memory = mmap.mmap(-1, MEMORY_BYTES)
    memory.write(os.urandom(1 << 20) * (MEMORY_BYTES >> 20))
    return memory


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def iperf3_gib_s() -> float:
    """One stream over loopback for a second."""
    program = shutil.which("iperf3")
    if program is None:
        return float("nan")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        attended([program, "-s", "-1", "-p", port]), stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            done = subprocess.run(
                [program, "-c", "127.0.0.1", "-p", port, "-t", "1", "-J"],
                capture_output=True,
                text=True,
                check=False,
            )
            told = json.loads(done.stdout)
            if "error" not in told:
                return float(told["end"]["sum_received"]["bits_per_second"]) / 8 / GIB
            time.sleep(0.02)  # it does not listen yet
    finally:
        server.kill()
        server.wait()
    raise RuntimeError("iperf3 does not answer")


class BareSocket:
    """A blocking socket at both ends."""

    def __init__(self, end: FarProcess, memory: mmap.mmap) -> None:
        self._memory = memoryview(memory)
        self._back = bytearray(SMALL_BYTES)
        self._socket = socket.create_connection(("127.0.0.1", end.hear()["port"]))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def gib_s(self, size: int, count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            self._socket.sendall(size.to_bytes(8, "little"))
            self._socket.sendall(self._memory[:size])
            assert self._socket.recv(1) == b"k"
        return size * count / GIB / (time.perf_counter() - begin)

    def pings_us(self, count: int) -> list[float]:
        return [self._ping_us() for _ in range(count)]

    def _ping_us(self) -> float:
        begin = time.perf_counter()
        self._socket.sendall(SMALL_BYTES.to_bytes(8, "little") + self._memory[:SMALL_BYTES])
        at = 0
        while at < SMALL_BYTES:
            at += self._socket.recv_into(memoryview(self._back)[at:])
        return (time.perf_counter() - begin) * 1e6


class BareLoop:
    """A socket in an event loop at both ends: 4 KiB there, 4 KiB back."""

    def __init__(self, end: FarProcess, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._small = os.urandom(SMALL_BYTES)
        self._socket = socket.create_connection(("127.0.0.1", end.hear()["port"]))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def pings_us(self, count: int) -> list[float]:
        async def pings() -> list[float]:
            loop, took, back = asyncio.get_running_loop(), [], bytearray(SMALL_BYTES)
            for _ in range(count):
                begin = time.perf_counter()
                await loop.sock_sendall(self._socket, self._small)
                at = 0
                while at < SMALL_BYTES:
                    at += await loop.sock_recv_into(self._socket, memoryview(back)[at:])
                took.append((time.perf_counter() - begin) * 1e6)
            return took

        return self._runner.run(pings())


class BareGrpc:
    """A stream of grpc.aio at both ends: a megabyte each message, which nobody looks at."""

    def __init__(self, end: FarProcess, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._message = os.urandom(MESSAGE_BYTES)
        self._small = os.urandom(SMALL_BYTES)
        runner.run(self._open(end.hear()["port"]))

    async def _open(self, port: int) -> None:
        self._call = grpc.aio.insecure_channel(f"127.0.0.1:{port}").stream_stream("/bare/Bytes")()
        await self._echo()

    async def _echo(self) -> None:
        await self._call.write(self._small)
        assert len(await self._call.read()) == SMALL_BYTES

    def gib_s(self, size: int, count: int) -> float:
        async def stream() -> float:
            begin = time.perf_counter()
            for _ in range(size * count // MESSAGE_BYTES):
                await self._call.write(self._message)
            await self._echo()
            return size * count / GIB / (time.perf_counter() - begin)

        return self._runner.run(stream())

    def pings_us(self, count: int) -> list[float]:
        async def pings() -> list[float]:
            took = []
            for _ in range(count):
                begin = time.perf_counter()
                await self._echo()
                took.append((time.perf_counter() - begin) * 1e6)
            return took

        return self._runner.run(pings())


class BareMooncake:
    """Mooncake's Transfer Engine over TCP: synchronous writes."""

    def __init__(self, end: FarProcess, memory: mmap.mmap) -> None:
        from mooncake.engine import TransferEngine

        self._engine = TransferEngine()
        assert self._engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
        self._memory = address_of(memory)
        assert self._engine.register_memory(self._memory, len(memory)) == 0
        there = end.hear()
        self._peer, self._address = there["peer"], there["address"]

    def gib_s(self, size: int, count: int) -> float:
        begin = time.perf_counter()
        for at in range(count):
            where = at * size % MEMORY_BYTES
            code = self._engine.transfer_sync_write(
                self._peer, self._memory + where, self._address + where, size
            )
            assert code == 0, code
        return size * count / GIB / (time.perf_counter() - begin)


def new_nixl_agent(name: str, memory: mmap.mmap) -> tuple[Any, Any]:
    api = importlib.import_module("nixl_cu13._api")
    settings = api.nixl_agent_config(
        enable_prog_thread=False,
        backends=["UCX"],
        sync_mode=api.nixl_thread_sync_t.NIXL_THREAD_SYNC_NONE,
    )
    agent = api.nixl_agent(name, settings)
    return agent, agent.register_memory([(address_of(memory), len(memory), 0, "")], "DRAM", ["UCX"])


class BareNixl:
    """NIXL over UCX, looked at without a pause at both ends."""

    def __init__(self, end: FarProcess, memory: mmap.mmap) -> None:
        self._end = end
        self._agent, self._told = new_nixl_agent("near", memory)
        self._memory = address_of(memory)
        there = end.hear()
        self._address = there["address"]
        end.tell({"metadata": self._agent.get_agent_metadata().hex()})
        self._agent.add_remote_agent(bytes.fromhex(there["metadata"]))

    def gib_s(self, size: int, count: int) -> float:
        self._end.tell({"notes": count})
        begin = time.perf_counter()
        for at in range(count):
            self._write(size, at * size % MEMORY_BYTES, b"note")
        self._end.hear()
        return size * count / GIB / (time.perf_counter() - begin)

    def pings_us(self, count: int) -> list[float]:
        """4 KiB there, a word back."""
        self._end.tell({"notes": count})
        took = []
        for _ in range(count):
            begin = time.perf_counter()
            self._write(SMALL_BYTES, 0, b"ping")
            while not self._agent.get_new_notifs(["UCX"]):
                continue
            took.append((time.perf_counter() - begin) * 1e6)
        self._end.hear()
        return took

    def _write(self, size: int, at: int, note: bytes) -> None:
        agent = self._agent
        handle = agent.initialize_xfer(
            "WRITE",
            agent.get_xfer_descs([(self._memory + at, size, 0)], "DRAM"),
            agent.get_xfer_descs([(self._address + at, size, 0)], "DRAM"),
            "far",
            note,
            ["UCX"],
        )
        state = agent.transfer(handle)
        while state == "PROC":
            state = agent.check_xfer_state(handle)
        assert state == "DONE", state
        handle.release()
