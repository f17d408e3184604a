"""Opening a block device, a partition or a file for a raw store: nobody else may be using it.

Everything here blocks, and so runs on a thread beside the loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from penstock.actors.stores.raw_config import RawPlace, shared
from penstock.actors.stores.store import StoreFault, StoreRefused

FILE_MODE = 0o600  # of its owner alone: it holds what users said
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Medium:
    """An open one, locked for as long as `fd` is open."""

    fd: int
    path: Path
    size_bytes: int
    is_direct: bool  # past the page cache


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


def open_medium(path: Path, *, key: str, file_bytes: int, preallocate: bool) -> Medium:
    """Open and lock it; a file is made, or enlarged to `file_bytes`. Raises StoreRefused, StoreFault."""
    with ExitStack() as opened:
        try:
            mode = path.stat().st_mode if path.exists() else stat.S_IFREG
            if stat.S_ISBLK(mode):
                _check_not_mounted(path, key)
            elif not stat.S_ISREG(mode):
                advice = "name one, or, of a folder, a file in it"
                raise StoreRefused(key, f"{path} is neither a block device nor a file: {advice}")
            elif not path.exists() and not file_bytes:
                advice = "give the store a capacity, such as 500GiB, and it is made"
                raise StoreRefused(key, f"{path} does not exist: {advice}")
            fd, is_direct = _open(path, key, is_block=stat.S_ISBLK(mode))
            opened.callback(os.close, fd)
            _lock(fd, path, key)
            if stat.S_ISREG(mode) and os.fstat(fd).st_size < file_bytes:
                _enlarge(fd, path, key, file_bytes, preallocate=preallocate)
            size = os.lseek(fd, 0, os.SEEK_END)
        except OSError as error:
            raise StoreFault(f"{path} cannot be opened: {error}") from error
        opened.pop_all()
        return Medium(fd, path, size, is_direct)


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return (0, 0, found.st_rdev) if stat.S_ISBLK(found.st_mode) else (1, found.st_dev, found.st_ino)


def _check_not_mounted(path: Path, key: str) -> None:
    device = path.stat().st_rdev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text().splitlines():
        fields = line.split(" ")
        if fields[2] == number:
            problem = f"{path} is mounted at {fields[4]}: unmount it, or name a device nobody uses"
            raise StoreRefused(key, problem)


def _open(path: Path, key: str, *, is_block: bool) -> tuple[int, bool]:
    """A descriptor, and whether it goes past the page cache. O_EXCL claims a block device from the kernel, and with it
    all of its partitions, and the device it is a partition of."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if is_block else os.O_CREAT)
    try:
        try:
            return os.open(path, flags | os.O_DIRECT, FILE_MODE), True
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
            return os.open(path, flags, FILE_MODE), False
    except PermissionError:
        advice = "make it the node's (a udev rule, chown), or run the node as a user of its group"
        raise StoreRefused(key, f"{path} may not be read and written: {advice}") from None
    except FileNotFoundError:
        raise StoreRefused(key, f"the folder of {path} does not exist: make it") from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            users = "it or a part of it is mounted elsewhere, or in LVM, RAID or swap, or another store's"
            problem = f"{path} is in use ({users}): free it, or name another device"
            raise StoreRefused(key, problem) from None
        if error.errno == errno.EROFS:
            raise StoreRefused(key, f"{path} is read-only: make it writable") from None
        raise


def _lock(fd: int, path: Path, key: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = f"{path} belongs to another store or node that is running"
        raise StoreRefused(key, f"{problem}: give each its own") from None


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
