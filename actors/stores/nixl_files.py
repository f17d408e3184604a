"""Objects as files, moved by a file plugin of NIXL: POSIX, GDS, GDS_MT, HF3FS. Everything here blocks.

The folder is that of a file store, with the same names and the same bytes in it (`file_folder.py`): written aside,
[synced], renamed. The files are ours to open; NIXL moves what is between them and memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from penstock._native import Caching
from penstock.actors.api.store import Keys
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.file_folder import Folder, object_name, read_tenant, unread
from penstock.actors.stores.header import whole_blocks
from penstock.actors.stores.nixl_agent import Agent, Parts, Remote, Way
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.store import (
    BLOCK_BYTES,
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    StoreFault,
    Wanted,
)

One = TypeVar("One", Wanted, Given)
Result = TypeVar("Result")
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file that is open for one object, which has so many bytes."""

    key: bytes
    parts: Parts
    fd: int
    size_bytes: int
    aside: str = ""  # what it is called until it is whole


class NixlFiles:
    """One folder, one agent."""

    def __init__(
        self, config: NixlConfig, agent: Agent, folder: Folder, fd: int, caching: Caching
    ) -> None:
        """`fd`: of the folder, for calls that are left behind: never another's number. Closed with it."""
        self._agent = agent
        self._folder = folder
        self._fd = fd
        self._is_direct = caching is Caching.DIRECT
        self._is_durable = config.durability is DurabilityName.FDATASYNC
        self._depth = config.depth
        self._tenant = read_tenant if config.has_quotas else unread

    def locate(self, keys: Keys) -> bytes:
        """Raises StoreFault."""
        return bytes(self._size(key) >= BLOCK_BYTES for key in keys)

    def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return self._in_slices(wanted, self._open_to_load, Way.READ)

    def save(self, given: Sequence[Given]) -> list[Outcome]:
        return self._in_slices(given, self._open_to_save, Way.WRITE)

    def delete(self, keys: Keys) -> None:
        """Raises StoreFault."""
        for key in {*keys}:
            try:
                os.unlink(object_name(key), dir_fd=self._fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreFault(f"an object could not be deleted: {error}") from error

    def entries(self, batch_max: int) -> Iterator[list[Entry]]:
        """Raises OSError."""
        return self._folder.entries(batch_max, self._tenant)

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return whole_blocks(header_bytes) + whole_blocks(payload_bytes)

    def let_go(self) -> None:
        """Of the folder, even if calls are left behind: what they wrote aside is gone."""
        self._folder.close()

    def close(self) -> None:
        """When nothing is under way."""
        os.close(self._fd)
        self._agent.close()

    def _size(self, key: bytes) -> int:
        try:
            return os.stat(object_name(key), dir_fd=self._fd).st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreFault(f"an object could not be located: {error}") from error

    def _in_slices(
        self, all_: Sequence[One], open_it: Callable[[ExitStack, One], _Opened | Outcome], way: Way
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for start in range(0, len(all_), self._depth):
            some = all_[start : start + self._depth]
            with ExitStack() as files:
                opened = [_tried(partial(open_it, files, one)) for one in some]
                outcomes += self._moved(way, some, opened)
        return outcomes

    def _moved(
        self, way: Way, objects: Sequence[object], opened: Sequence[_Opened | Outcome]
    ) -> list[Outcome]:
        """What became of each, once all are moved."""
        moves = [
            (one.parts, Remote(one.fd, one.size_bytes), it)
            for one, it in zip(opened, objects, strict=True)
            if isinstance(one, _Opened)
        ]
        problems = iter(self._agent.move(way, moves))
        outcomes = []
        for one in opened:
            if isinstance(one, Outcome):
                outcomes.append(one)
            elif problem := next(problems):
                outcomes.append(Outcome(Fate.FAULT, reason=f"NIXL: {problem}"))
            elif way is Way.READ:
                outcomes.append(Outcome(Fate.DONE, one.size_bytes - len(one.parts[0])))
            else:
                outcomes.append(_tried(partial(self._show, one)))
        return outcomes

    def _open_to_load(self, files: ExitStack, one: Wanted) -> _Opened | Outcome:
        name, header = object_name(one.key), len(one.header)
        try:
            fd = self._open(files, name, os.O_RDONLY)
        except FileNotFoundError:
            return MISSING
        size = os.fstat(fd).st_size
        if not header <= size <= header + len(one.payload):
            room = f"there is room for {header} + {len(one.payload)}"
            return Outcome(Fate.REFUSED, reason=f"its file has {size} bytes, {room}")
        self._through_the_cache_unless_whole(fd, size)
        parts = (one.header, one.payload[: size - header])
        return _Opened(one.key, parts, fd, size)

    def _open_to_save(self, files: ExitStack, one: Given) -> _Opened:
        size, aside = len(one.header) + one.payload_bytes, self._folder.temporary()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            fd = self._open(files, aside, flags)
        except FileNotFoundError:  # somebody took the folder of temporaries away
            self._folder.renew_aside()
            fd = self._open(files, aside, flags)
        files.callback(self._remove_aside, aside)
        self._through_the_cache_unless_whole(fd, size)
        os.posix_fallocate(fd, 0, size)  # of a full disk NIXL only says that it failed
        parts = (one.header, one.payload[: one.payload_bytes])
        return _Opened(one.key, parts, fd, size, aside)

    def _show(self, one: _Opened) -> Outcome:
        """Give it its name."""
        name = object_name(one.key)
        if self._is_durable:
            os.fdatasync(one.fd)
        os.rename(one.aside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        if self._is_durable:
            try:
                self._sync_folder_of(name)
            except OSError as error:
                # It has its name already. What is said to be not there is not to be found.
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._fd)
                return replace(_failed(error), may_be_there=True)
        return DONE

    def _sync_folder_of(self, name: str) -> None:
        folder = os.open(Path(name).parent, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._fd)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _open(self, files: ExitStack, name: str, flags: int) -> int:
        direct = os.O_DIRECT if self._is_direct else 0
        fd = os.open(name, flags | direct | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        files.callback(os.close, fd)
        return fd

    def _through_the_cache_unless_whole(self, fd: int, size_bytes: int) -> None:
        """O_DIRECT moves whole blocks only."""
        if self._is_direct and size_bytes % BLOCK_BYTES:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)

    def _remove_aside(self, name: str) -> None:
        with suppress(OSError):  # renamed, or swept by the next owner
            os.unlink(name, dir_fd=self._fd)


def _tried(work: Callable[[], Result]) -> Result | Outcome:
    """What the operating system refuses, as the outcome of one object."""
    try:
        return work()
    except OSError as error:
        return _failed(error)
    except StoreFault as fault:
        return Outcome(Fate.FAULT, reason=str(fault))


def _failed(error: OSError) -> Outcome:
    fate = Fate.FULL if error.errno in _FULL else Fate.FAULT
    return Outcome(fate, reason=f"{os.strerror(error.errno or 0)}")
