"""Which stores of this machine's own disk and memory are measured, each with what it is measured against."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from bench_folder import fresh_folder
from store_fio import FilePerObject, OneFile
from store_sides import (
    FAR_BYTES,
    DigestedMemcpySide,
    MemcpySide,
    Shape,
    Side,
    Slots,
    drop_page_cache,
)

from penstock.runtime.units import KIB, MIB

SIZES = (64 * KIB, MIB, 32 * MIB)  # of objects
TMPFS = "/dev/shm"
HEADER_ROOM = 8 * KIB
SPARE_BYTES = 256 * MIB


def shapes(
    halves_s: tuple[float, float, float],
    bytes_max: int,
    depths: tuple[int, int, int] = (32, 16, 2),
    *,
    is_saved_by_writer: bool = False,
) -> tuple[Shape, ...]:
    """Of every size; no more than `bytes_max` are saved in a turn."""
    return tuple(
        Shape(size, depth, half_s, bytes_max // size, is_saved_by_writer)
        for size, depth, half_s in zip(SIZES, depths, halves_s, strict=True)
    )


class Absent(Exception):
    """This store cannot be measured here; says what is missing."""


class Case(ABC):
    """A store, and what it is measured against. Servers and folders live in `stack`."""

    name: ClassVar[str]
    baseline: ClassVar[str]
    same_work: ClassVar[str] = ""  # what the second baseline is, if there is one
    shapes: ClassVar[Sequence[Shape]]
    near_bytes: ClassVar[int] = 0  # of the arena that is used in turn
    is_emptied: ClassVar[bool] = False
    pace: ClassVar[float] = 1.0

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Raises Absent."""
        self.folder, self.stack = folder / self.name, stack
        self.folder.mkdir()

    @abstractmethod
    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        """Of a new store, with room for so many turns."""

    @abstractmethod
    def beside(self, slots: Slots, rounds: int) -> Side: ...

    def beside_same_work(self, slots: Slots, rounds: int) -> Side | None:
        """The second baseline, at sizes where it is another one."""
        del slots, rounds
        return None

    def forget(self) -> bool:
        """Drop what the page cache has. False: it has nothing."""
        return False

    def slot_bytes(self, shape: Shape) -> int:
        return shape.object_bytes + HEADER_ROOM

    def room(self, shape: Shape, turns: int) -> int:
        return turns * shape.objects_max * self.slot_bytes(shape) + SPARE_BYTES


class _OnDisk(Case):
    # Of the largest four fit into a tenth of a second; of others that is many, and files that take long to delete.
    shapes = shapes((0.06, 0.06, 0.1), 256 * MIB, is_saved_by_writer=True)
    direct: ClassVar[int] = 1

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        if shutil.which("fio") is None:
            raise Absent("fio is not installed")

    def place(self, shape: Shape) -> Path:
        return fresh_folder(self.folder, f"store-{shape.words}")

    def _fio(self) -> Path:
        return fresh_folder(self.folder, "fio")

    def beside(self, slots: Slots, rounds: int) -> Side:
        return OneFile(self._fio(), slots.shape, self.stack, direct=self.direct, rounds=rounds)

    def beside_same_work(self, slots: Slots, rounds: int) -> Side | None:
        if not self.same_work or slots.shape.object_bytes > MIB:
            return None  # larger ones do not notice
        return FilePerObject(
            self._fio(), slots.shape, self.stack, direct=self.direct, rounds=rounds
        )


class FileDirect(_OnDisk):
    name = "file_direct"
    baseline = "fio --direct=1, one file"
    same_work = "fio --direct=1, a file for each object"

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
    baseline = "fio --direct=0, one file"
    same_work = "fio --direct=0, a file for each object"
    direct = 0
    shapes = shapes((0.04, 0.04, 0.06), 128 * MIB, is_saved_by_writer=True)

    def forget(self) -> bool:
        drop_page_cache(self.folder)
        return True


class RawBlock(_OnDisk):
    name = "raw_block"
    baseline = "fio --direct=1, one file"

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        return {
            "type": "raw_block",
            "paths": str(self.place(shape) / "device"),
            "depth": shape.depth,
            "slot_bytes": self.slot_bytes(shape),
            "capacity": self.room(shape, turns),
        }


class NixlPosix(_OnDisk):
    name = "nixl_posix"
    baseline = "fio --direct=1, one file"
    same_work = FileDirect.same_work
    pace = 1 / 2  # no target

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        return {
            "type": "nixl",
            "path": str(self.place(shape)),
            "depth": shape.depth,
            "capacity": self.room(shape, turns),
        }


class Memory(Case):
    name = "memory"
    baseline = "memcpy, one thread, of more than caches hold, to memory that is there"
    same_work = "memcpy; of loads memcpy, then crc64; one thread"
    shapes = shapes((0.025,) * 3, FAR_BYTES)
    near_bytes = FAR_BYTES
    is_emptied = True

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        del turns  # it is emptied
        return {"type": "memory", "capacity": self.room(shape, 1)}

    def beside(self, slots: Slots, rounds: int) -> Side:
        del rounds
        return MemcpySide(slots)

    def beside_same_work(self, slots: Slots, rounds: int) -> Side | None:
        del rounds
        return DigestedMemcpySide(slots)


class Dax(Memory):
    """A mapped file of tmpfs."""

    name = "dax"

    def settings(self, shape: Shape, turns: int) -> Mapping[str, object]:
        del turns
        folder = self.stack.enter_context(TemporaryDirectory(prefix="penstock-", dir=TMPFS))
        arena = {"path": f"{folder}/arena", "bytes": self.room(shape, 1)}
        return {"type": "dax", "arenas": [arena], "slot_bytes": self.slot_bytes(shape)}
