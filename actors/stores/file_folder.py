"""One folder of a file store: who owns it, what lies where in it, and what earlier owners left behind.

    FOLDER/
      penstock.json            what this folder is: format, and its place among the paths of its store
      lock                     locked by every node that uses it: alone (exclusive) or together (shared)
      aside/EPOCH-PID-RANDOM/  temporaries of one living store, locked by it through `owner`
      objects/0..f/0..f/KEY    the objects

Everything here blocks, and so runs on threads beside the loop, and at no time but opening, recovery and closing.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import TypeAlias

from penstock._native import Caching
from penstock.actors.api.types import KEY_BYTES, Epoch
from penstock.actors.stores.file_config import Placement
from penstock.actors.stores.header import tenant_of, whole_blocks
from penstock.actors.stores.medium_checks import lies_in_memory
from penstock.actors.stores.store import (
    BLOCK_BYTES,
    Entry,
    Ownership,
    StoreFault,
    StoreRefused,
)

TenantOf: TypeAlias = Callable[["os.DirEntry[str]"], bytes | None]

FORMAT = 1
FOLDER_MODE = 0o700
_HEX = "0123456789abcdef"
_LET = "let the user of the node read and write it"
_ROOM = "make room on its disk"
_ADVICE = {
    errno.EACCES: _LET,
    errno.EPERM: _LET,
    errno.EROFS: "mount it writable",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.ENOENT: "see that its disk is mounted",
}


@dataclass(frozen=True, slots=True)
class Marker:
    """What `penstock.json` says. Another order or number of paths would look for objects where they are not."""

    placement: Placement
    paths: int
    index: int

    @property
    def device(self) -> int:
        """A device whose objects lie here."""
        return self.index if self.placement is Placement.BY_DEVICE else 0

    def text(self) -> str:
        told = {"format": FORMAT, "placement": self.placement.value, "paths": self.paths}
        return json.dumps(told | {"index": self.index}) + "\n"


def object_name(key: bytes) -> str:
    """Where the object lies below its folder. Keys are digests, and so their digits are evenly spread; no name from
    outside ever becomes a part of a path."""
    name = key.hex()
    return f"objects/{name[0]}/{name[1]}/{name}"


class Folder:
    """An open folder. Holds its locks until `close`. Methods may be called from any thread."""

    def __init__(self, path: Path, marker: Marker, ownership: Ownership, epoch: Epoch) -> None:
        """Make it if it is not there, and lock it. Raises StoreRefused, StoreFault."""
        self.path = path
        self._marker = marker
        self._aside = f"{epoch.hex()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)  # of temporaries
        self._fds: list[int] = []
        self._owner = -1  # of our temporaries
        self._changing = threading.Lock()  # of `_owner`, and closing
        try:
            _make(path)
            self.fd = self._keep(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
            self._lock(ownership)
        except StoreRefused:
            self.close()
            raise
        except (NotADirectoryError, FileExistsError) as error:
            self.close()
            if _leads_nowhere(path):
                raise StoreFault(f"{path} leads to what is not there: mount it") from error
            problem = f"{path} is no folder, or lies below what is none: name one"
            raise StoreRefused("paths", problem) from None
        except OSError as error:
            self.close()
            raise StoreFault(f"{path} cannot be opened: {_why(error)}") from error

    def claim(self) -> None:
        """Check what it is, or say so in it if it is new, once every folder of the store is locked.

        Raises StoreRefused, StoreFault."""
        try:
            self._check()
            self._lay_out()
        except OSError as error:
            raise StoreFault(f"{self.path} cannot be laid out: {_why(error)}") from error

    def temporary(self) -> str:
        """A name nobody else has: of this process and epoch, and counted."""
        return f"aside/{self._aside}/{next(self._numbers)}"

    def now_s(self) -> float:
        """By the clock that stamps its files, which may be another machine's. Raises OSError, StoreFault."""
        self.renew_aside()
        os.utime(self._owner)
        return os.fstat(self._owner).st_mtime

    def caching_of(self, wanted: Caching) -> Caching:
        """`wanted`, or BUFFERED where the filesystem refuses the other or has no disk. Raises StoreFault."""
        if wanted is Caching.BUFFERED or lies_in_memory(self.fd):
            return Caching.BUFFERED
        name = self.temporary()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT
            fd = os.open(name, flags, 0o600, dir_fd=self.fd)
            os.close(fd)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise StoreFault(f"{self.path} cannot be written: {error}") from error
            return Caching.BUFFERED
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.fd)
        return Caching.DIRECT

    def renew_aside(self) -> bool:
        """Make the folder of our temporaries anew if somebody took it away, and whether that was so.

        Raises StoreFault."""
        with self._changing:
            if not self._fds or self._has_aside():
                return False
            self._let_go_of_aside()
            try:
                self._make_aside()
            except OSError as error:
                problem = f"{self.path} has lost its folder of temporaries, and gets no other"
                raise StoreFault(f"{problem}: {error}") from error
            return True

    def sweep(self) -> int:
        """Remove temporaries of stores that are no more: of those whose `owner` nobody has locked. How many."""
        return sum(_remove_if_dead(one) for one in (self.path / "aside").iterdir())

    def entries(self, batch_max: int, tenant: TenantOf) -> Iterator[list[Entry]]:
        """Objects that are there, told from their names and sizes. What no object can be is removed."""
        for first in _HEX:
            for second in _HEX:
                is_ours = re.compile(f"{first}{second}[0-9a-f]{{{2 * KEY_BYTES - 2}}}").fullmatch
                with os.scandir(self.path / "objects" / first / second) as found:
                    while batch := [*islice(found, batch_max)]:
                        entries = [self._entry(one, tenant) for one in batch if is_ours(one.name)]
                        yield [one for one in entries if one is not None]

    def close(self) -> None:
        """Unlock, and take the temporaries away. When no job is under way. Idempotent."""
        with self._changing:
            if self._fds:
                shutil.rmtree(self.path / "aside" / self._aside, ignore_errors=True)
            self._let_go_of_aside()
            while self._fds:
                os.close(self._fds.pop())

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _lock(self, ownership: Ownership) -> None:
        fd = self._keep(os.open("lock", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=self.fd))
        how = fcntl.LOCK_EX if ownership is Ownership.EXCLUSIVE else fcntl.LOCK_SH
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = f"{self.path} belongs to another store or node that is running"
            advice = "give each its own folder, or say ownership: shared in all of them"
            raise StoreRefused("paths", f"{problem}: {advice}") from None

    def _check(self) -> None:
        told, place = self._marker.text(), self.path / "penstock.json"
        if not _said_in(place):
            # Linked into place whole: two nodes may come at the same time. And synced before that: without its marker
            # nobody would open a folder again that a power cut left with the objects in it.
            aside = self.path / f"penstock.json.{self._aside}"
            try:
                _write(aside, told)
                with suppress(FileExistsError):
                    os.link(aside, place)
                if not _said_in(place):
                    _replace_blank(place, aside)
            finally:
                aside.unlink(missing_ok=True)
        found = place.read_text()
        if found != told:
            problem = f"{self.path} was made as {found.strip()}, not as {told.strip()}"
            advice = "name the paths as they were, or empty the folder"
            raise StoreRefused("paths", f"{problem}: {advice}")

    def _lay_out(self) -> None:
        objects = self.path / "objects"
        for first, second in product(_HEX, _HEX):
            (objects / first / second).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for first in _HEX:  # when all are made, so that a journal is written out once
            _sync(objects / first)
        _sync(objects)
        _sync(self.path)
        self._make_aside()

    def _make_aside(self) -> None:
        """The folder of our temporaries, and lock it."""
        mine = self.path / "aside" / self._aside
        while True:
            mine.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # swept by another before it was locked: again
                owner = os.open(mine / "owner", os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(owner, fcntl.LOCK_SH)
                if os.fstat(owner).st_nlink:
                    self._owner = owner
                    return
                os.close(owner)

    def _let_go_of_aside(self) -> None:
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def _has_aside(self) -> bool:
        owner = self.path / "aside" / self._aside / "owner"
        try:
            return self._owner >= 0 and os.path.samestat(owner.stat(), os.fstat(self._owner))
        except OSError:  # gone, or nobody can tell: made anew, or making it says why not
            return False

    def _entry(self, found: os.DirEntry[str], tenant: TenantOf) -> Entry | None:
        try:
            if not found.is_file(follow_symlinks=False):
                return None
            size = found.stat(follow_symlinks=False).st_size
            if size >= BLOCK_BYTES:
                key = bytes.fromhex(found.name)
                return Entry(key, self._marker.device, whole_blocks(size), tenant(found))
            Path(found.path).unlink()  # cut short by a power cut: no header is in it
        except FileNotFoundError:
            pass  # deleted meanwhile
        return None


def _why(error: OSError) -> str:
    """And what to do about it."""
    told = os.strerror(error.errno) if error.errno else str(error)
    advice = _ADVICE.get(error.errno or 0)
    return f"{told}: {advice}, it is tried again" if advice else told


def unread(_: os.DirEntry[str]) -> bytes | None:
    """No file is opened: nobody asks whose they are."""
    return None


def read_tenant(found: os.DirEntry[str]) -> bytes | None:
    """From the first block of the file."""
    try:
        with Path(found.path).open("rb", buffering=0) as file:
            return tenant_of(file.read(BLOCK_BYTES))
    except FileNotFoundError:
        raise
    except OSError:  # it is there, and takes its room
        return None


def _remove_if_dead(aside: Path) -> bool:
    """Whoever has the lock of `owner` decides. One that has no such file is being made, or was half removed: either
    its maker locks first, and it lives, or we do, and the maker finds its file gone and begins again."""
    try:
        fd = os.open(aside / "owner", os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(aside, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _said_in(marker: Path) -> str:
    """Nothing, too, where a power cut came before the bytes of a marker."""
    try:
        return marker.read_text().strip("\0")
    except FileNotFoundError:
        return ""


def _replace_blank(marker: Path, by: Path) -> None:
    """Whoever locks it first does; who comes later finds another file there."""
    with marker.open("r+b") as blank:
        fcntl.flock(blank, fcntl.LOCK_EX)
        is_there = os.path.samestat(os.fstat(blank.fileno()), marker.stat())
        if is_there and not _said_in(marker):
            by.rename(marker)


def _write(path: Path, text: str) -> None:
    """And sync it; the folder is not."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _make(path: Path) -> None:
    """With what is missing above it, and so that a power cut takes none of it."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    for made in missing:
        _sync(made.parent)


def _leads_nowhere(path: Path) -> bool:
    """By a symbolic link to what may yet be mounted."""
    there = next(one for one in (path, *path.parents) if os.path.lexists(one))
    return not there.exists()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
