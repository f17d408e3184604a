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
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from penstock._native import Caching
from penstock.actors.api.types import KEY_BYTES, Epoch
from penstock.actors.stores.file_config import Placement
from penstock.actors.stores.header import tenant_of, whole_blocks
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
    """An open folder. Holds its locks until `close`."""

    def __init__(self, path: Path, marker: Marker, ownership: Ownership, epoch: Epoch) -> None:
        """Make it if it is not there, and lock it. Raises StoreRefused, StoreFault."""
        self.path = path
        self._marker = marker
        self._aside = f"{epoch.hex()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._written = 0
        self._fds: list[int] = []
        try:
            path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self.fd = self._keep(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
            self._lock(ownership)
        except StoreRefused:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise StoreFault(f"{path} cannot be opened: {error}") from error

    def claim(self) -> None:
        """Check what it is, or say so in it if it is new, once every folder of the store is locked.

        Raises StoreRefused, StoreFault."""
        try:
            self._check()
            self._lay_out()
        except OSError as error:
            raise StoreFault(f"{self.path} cannot be laid out: {error}") from error

    def temporary(self) -> str:
        """A name nobody else has: of this process and epoch, and counted."""
        self._written += 1
        return f"aside/{self._aside}/{self._written}"

    def caching_of(self, wanted: Caching) -> Caching:
        """`wanted`, or BUFFERED where the filesystem refuses the other. Raises StoreFault."""
        if wanted is Caching.BUFFERED:
            return wanted
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
        if self._fds:
            shutil.rmtree(self.path / "aside" / self._aside, ignore_errors=True)
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
        told = self._marker.text()
        place = self.path / "penstock.json"
        with suppress(FileExistsError):
            # Linked into place whole: two nodes may come at the same time.
            aside = self.path / f"penstock.json.{self._aside}"
            aside.write_text(told)
            try:
                os.link(aside, place)
            finally:
                aside.unlink()
        found = place.read_text()
        if found != told:
            problem = f"{self.path} was made as {found.strip()}, not as {told.strip()}"
            advice = "name the paths as they were, or empty the folder"
            raise StoreRefused("paths", f"{problem}: {advice}")

    def _lay_out(self) -> None:
        objects = self.path / "objects"
        for first in _HEX:
            for second in _HEX:
                (objects / first / second).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            _sync(objects / first)
        _sync(objects)
        _sync(self.path)
        while True:
            mine = self.path / "aside" / self._aside
            mine.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # swept by another before it was locked: again
                owner = os.open(mine / "owner", os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(owner, fcntl.LOCK_SH)
                if os.fstat(owner).st_nlink:
                    self._keep(owner)
                    break
                os.close(owner)

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


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
