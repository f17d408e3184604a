"""Opening a file or device to be mapped: nobody else may be using it, and all of it has to be there.

What a write through a mapping finds missing ends the process. So files have all their room before they are mapped.
Everything here blocks.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.actors.stores.dax_layout import Layout, judged
from penstock.actors.stores.medium_checks import (
    check_may_be_made,
    check_not_mounted,
    claimed,
    lies_in_memory,
)
from penstock.actors.stores.store import StoreFault, StoreRefused

FILE_MODE = 0o600
PAGE_BYTES = mmap.PAGESIZE
# Of linux/mman.h: refused where a mapping is not the medium itself.
MAP_SHARED_VALIDATE = 0x03
MAP_SYNC = 0x80000


@dataclass(frozen=True, slots=True)
class DaxMedium:
    """Open, locked and mapped. Whoever has it closes `fd` by `unlock`."""

    fd: int
    memory: mmap.mmap
    layout: Layout
    is_blank: bool
    is_device: bool  # of DAX, without a filesystem: nothing is to be synced, and nothing can be
    is_memory: bool  # touching it never waits for a disk


def open_dax_medium(path: Path, size_bytes: int, slot_bytes: int) -> DaxMedium:
    """Whoever refuses leaves it as it was; a file made for this is removed. Raises StoreRefused, StoreFault."""
    with ExitStack() as undo, _faults_of(path):
        is_made = not path.exists()
        if is_made:
            if not size_bytes:
                problem = f"{path} does not exist: say how many bytes, and it is made so large"
                raise StoreRefused("arenas.bytes", problem)
            check_may_be_made(path, "arenas.path")
        fd = _opened(path, is_made=is_made)
        undo.callback(unlock, fd)
        _lock(fd, path)
        if is_made:
            undo.callback(path.unlink, missing_ok=True)
        mode = os.fstat(fd).st_mode
        is_device = stat.S_ISCHR(mode)
        size = _size(path, fd, size_bytes, is_made=is_made)
        if is_device:
            memory = mmap.mmap(fd, size)  # there is no other way to read it
            undo.callback(memory.close)
            layout, is_blank = judged(
                path, lambda at, count: memory[at : at + count], size, slot_bytes
            )
        else:
            layout, is_blank = judged(
                path, lambda at, count: _read(fd, at, count), size, slot_bytes
            )
            if stat.S_ISREG(mode):
                _fill(path, fd, size)
            memory = mmap.mmap(fd, size)
        is_memory = is_device or (stat.S_ISREG(mode) and _is_memory(fd))
        undo.pop_all()
        return DaxMedium(fd, memory, layout, is_blank, is_device, is_memory)


def unlock(fd: int) -> None:
    """And close. Explicitly: a mapping has a duplicate of it, and may live on for a while."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Errors of the system become StoreFault."""
    try:
        yield
    except OSError as error:
        raise StoreFault(f"{path}: {error.strerror or error}") from error


def _opened(path: Path, *, is_made: bool) -> int:
    """O_EXCL claims a block device from the kernel, with all of its partitions; of a file, that nobody else made it."""
    flags = os.O_RDWR | os.O_CLOEXEC
    if is_made:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
    mode = path.stat().st_mode
    if stat.S_ISBLK(mode):
        check_not_mounted(path, "arenas.path")
        try:
            return os.open(path, flags | os.O_EXCL)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise StoreRefused("arenas.path", claimed(path)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
        raise StoreRefused("arenas.path", f"{path} is neither a device nor a file: name one")
    return os.open(path, flags)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = f"{path} is in use by another process, or named twice"
        raise StoreRefused("arenas", problem) from None


def _size(path: Path, fd: int, size_bytes: int, *, is_made: bool) -> int:
    """How much of it is used: what was said, or all. Raises StoreRefused, OSError."""
    mode = os.fstat(fd).st_mode
    there = 0 if stat.S_ISCHR(mode) else os.lseek(fd, 0, os.SEEK_END)
    if is_made or (stat.S_ISREG(mode) and not there and size_bytes):
        return size_bytes
    if stat.S_ISCHR(mode):
        if not size_bytes:
            problem = f"{path}: say how many bytes of the device may be used"
            raise StoreRefused("arenas.bytes", problem)
        return size_bytes
    if there < max(size_bytes, 1):
        problem = f"{path} has {there} bytes: arenas do not grow, add another one"
        raise StoreRefused("arenas.bytes", problem)
    return size_bytes or there


def _fill(path: Path, fd: int, size_bytes: int) -> None:
    """All its bytes get room, those of a file with holes, too. Raises StoreRefused, OSError."""
    before = os.fstat(fd).st_size
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        os.truncate(fd, before)
        problem = f"{path} cannot have {size_bytes} bytes ({error.strerror})"
        raise StoreRefused("arenas.bytes", f"{problem}: make room, or say fewer") from None


def _read(fd: int, offset: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := os.pread(fd, count, offset)):
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join([*parts, bytes(count)])


def _is_memory(fd: int) -> bool:
    """Whether a mapping of this file is the medium itself, and no cache of it. Raises OSError."""
    if lies_in_memory(fd):
        return True
    try:
        mmap.mmap(fd, PAGE_BYTES, flags=MAP_SHARED_VALIDATE | MAP_SYNC).close()
    except OSError:
        return False
    return True
