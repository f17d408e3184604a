"""Opening a block device, a partition or a file for a raw store: nobody else may be using it.

Everything here blocks, and so runs on a thread beside the loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from penstock.actors.core.slot_format import HEAD_BYTES
from penstock.actors.stores.medium_checks import check_may_be_made, check_not_mounted, claimed
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_config import RawPlace, shared
from penstock.actors.stores.store import BLOCK_BYTES, StoreFault, StoreRefused

FILE_MODE = 0o600  # of its owner alone: it holds what users said


class MediumBusy(StoreRefused):
    """Another has it: a store or node that runs, or the kernel, for one that was killed."""


Judge: TypeAlias = Callable[[memoryview, int], None]
"""Of the first HEAD_BYTES, and the size it will have. Raises StoreRefused."""


@dataclass(frozen=True, slots=True)
class Medium:
    """An open one, locked for as long as `fd` is open, or a transfer by it is under way: so what a killed process has
    still to write is over when the next one has the lock."""

    fd: int
    path: Path
    size_bytes: int
    is_direct: bool  # past the page cache
    is_made: bool  # it was not there
    is_block: bool  # a device, and no file


def check_distinct(places: Sequence[RawPlace], key: str) -> None:
    """A10: by device number or inode, whatever their paths are called. Raises StoreRefused."""
    seen: dict[tuple[int, int, int], RawPlace] = {}
    for place in places:
        try:
            found = place.path.stat()
        except OSError:
            continue  # not there yet, or refused in its turn
        other = seen.setdefault(_identity(found), place)
        if other is not place:
            raise StoreRefused(key, shared(place, other))


def open_medium(
    path: Path, *, key: str, file_bytes: int, preallocate: bool, judge: Judge
) -> Medium:
    """Open and lock it, have its head judged, and only then make a file as large as `file_bytes`.

    Whoever refuses leaves it as it was: a file that was made for this is removed. Raises StoreRefused, MediumBusy
    where it may be free soon, StoreFault.
    """
    with ExitStack() as opened:
        try:
            mode = path.stat().st_mode if path.exists() else stat.S_IFREG
            is_made = not path.exists()
            if stat.S_ISBLK(mode):
                check_not_mounted(path, key)
            elif not stat.S_ISREG(mode):
                advice = "name one, or, of a folder, a file in it"
                raise StoreRefused(key, f"{path} is neither a block device nor a file: {advice}")
            elif is_made:
                if not file_bytes:
                    advice = "give the store a capacity, such as 500GiB, and it is made"
                    raise StoreRefused(key, f"{path} does not exist: {advice}")
                check_may_be_made(path, key)
            with _refusals(path, key):
                if is_made:
                    # On its own: with O_DIRECT it may be made and refused at the same time.
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
                fd, is_direct = _open(path, is_block=stat.S_ISBLK(mode))
            opened.callback(os.close, fd)
            _lock(fd, path, key)
            if is_made:
                opened.callback(path.unlink, missing_ok=True)
            size = os.lseek(fd, 0, os.SEEK_END)
            wanted = max(size, file_bytes) if stat.S_ISREG(mode) else size
            judge(_head(fd), wanted)
            if size < wanted:
                _enlarge(fd, path, key, wanted, preallocate=preallocate)
        except OSError as error:
            raise StoreFault(f"{path} cannot be opened: {error}") from error
        opened.pop_all()
        return Medium(fd, path, wanted, is_direct, is_made, stat.S_ISBLK(mode))


def _head(fd: int) -> memoryview:
    """The first HEAD_BYTES; what is not there is zeros."""
    (head,) = fresh_pages([HEAD_BYTES])
    read = 0
    while read < HEAD_BYTES and (count := os.preadv(fd, [head[read:]], read)):
        read += count
        if count % BLOCK_BYTES:
            break  # the end of a file: no offset for a direct read
    return head


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return (0, 0, found.st_rdev) if stat.S_ISBLK(found.st_mode) else (1, found.st_dev, found.st_ino)


@contextmanager
def _refusals(path: Path, key: str) -> Iterator[None]:
    """What the system says to whoever opens it, in the words of the configuration."""
    try:
        yield
    except PermissionError:
        advice = "make it the node's (a udev rule, chown), or run the node as a user of its group"
        raise StoreRefused(key, f"{path} may not be read and written: {advice}") from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise MediumBusy(key, claimed(path)) from None
        if error.errno == errno.EROFS:
            raise StoreRefused(key, f"{path} is read-only: make it writable") from None
        raise


def _open(path: Path, *, is_block: bool) -> tuple[int, bool]:
    """A descriptor, and whether it goes past the page cache. O_EXCL claims a block device from the kernel, and with it
    all of its partitions, and the device it is a partition of."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if is_block else 0)
    try:
        return os.open(path, flags | os.O_DIRECT), True
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        return os.open(path, flags), False


def _lock(fd: int, path: Path, key: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = f"{path} belongs to another store or node that is running"
        raise MediumBusy(key, f"{problem}: give each its own") from None


def _enlarge(fd: int, path: Path, key: str, size_bytes: int, *, preallocate: bool) -> None:
    """Preallocated, it never finds the disk full later."""
    before = os.fstat(fd).st_size
    try:
        if preallocate:
            os.posix_fallocate(fd, 0, size_bytes)
        else:
            os.truncate(fd, size_bytes)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        os.truncate(fd, before)
        problem = f"{path} cannot have {size_bytes} bytes ({error.strerror})"
        raise StoreRefused("capacity", f"{problem}: make room, or give it less") from None
