"""How a file store is configured.

- name: nvme
  type: file
  paths: file:///mnt/a/kv,/mnt/b/kv     # or a list
  placement: by_device
  capacity: 500GiB
  io: direct
  durability: fdatasync
"""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import msgspec

from penstock._native import Durability
from penstock.actors.config_words import Count
from penstock.actors.stores.config import OwnershipName, StoreConfig
from penstock.runtime.units import Seconds

Depth = Annotated[int, msgspec.Meta(ge=1, le=4096)]
TTL_S_MAX = 366 * 86_400
Threads = Annotated[int, msgspec.Meta(ge=1, le=256)]


class FileIo(enum.Enum):
    """Whether objects go through the page cache."""

    DIRECT = "direct"  # straight between arena and disk
    BUFFERED = "buffered"  # memory beside the arena speeds up what is read again


class Placement(enum.Enum):
    """Which of several paths an object lies on."""

    BY_KEY = "by_key"  # evenly
    BY_DEVICE = "by_device"  # device % number of paths: each rank its own disk


class DurabilityName(enum.Enum):
    """What a power cut may take of what was said to be saved. It never makes a damaged object count."""

    NONE = "none"  # the latest objects
    FDATASYNC = "fdatasync"  # nothing: file and folder are synced before it is said


DURABILITY = {
    DurabilityName.NONE: Durability.NONE,
    DurabilityName.FDATASYNC: Durability.FDATASYNC,
}


class FileConfig(StoreConfig, frozen=True, kw_only=True, tag="file"):
    """Objects as files below one folder or several."""

    paths: str | tuple[str, ...]  # folders: paths, file:// URIs, comma lists of them
    placement: Placement = Placement.BY_KEY
    ownership: OwnershipName = OwnershipName.EXCLUSIVE
    io: FileIo = FileIo.DIRECT
    durability: DurabilityName = DurabilityName.NONE
    ttl: Seconds = Seconds(0)  # of a shared folder: what is not saved again goes; 0: never
    depth: Depth = 64  # reads and writes under way at a time, by io_uring
    threads: Threads = 8  # and where that is refused, by so many threads
    jobs_max: Count = 16384  # under way and waiting: objects of all batches together

    def __post_init__(self) -> None:
        super().__post_init__()
        folders = self.folders()
        if len({os.path.realpath(folder) for folder in folders}) != len(folders):
            raise ValueError("paths: one folder is named twice")
        if self.ownership is OwnershipName.EXCLUSIVE and not self.capacity:
            raise ValueError("a file store needs a capacity, such as 500GiB, unless it is shared")
        if self.ownership is OwnershipName.SHARED:
            self.check_shared()
        elif self.ttl:
            raise ValueError("ttl is of shared folders: one that is ours is evicted by its policy")
        if self.ttl and not 1 <= self.ttl <= TTL_S_MAX:
            raise ValueError(f"ttl must be 0, or 1 s to 366 days, not {self.ttl:g} s")
        if self.jobs_max < self.depth:
            raise ValueError(f"jobs_max must be at least depth, {self.depth}")

    def folders(self) -> tuple[Path, ...]:
        """In order. Raises ValueError."""
        texts = [self.paths] if isinstance(self.paths, str) else self.paths
        folders = tuple(_folder(part.strip()) for text in texts for part in text.split(","))
        if not folders:
            raise ValueError("paths must name a folder, such as /mnt/nvme/penstock")
        return folders


def _folder(text: str) -> Path:
    path = text
    if "://" in text:
        uri = urlsplit(text)
        if uri.scheme != "file" or uri.netloc not in {"", "localhost"}:
            raise ValueError(f"paths: {text!r} is no file:// URI of this machine")
        if uri.query or uri.fragment:
            raise ValueError(f"paths: {text!r} has more than a path; write '?' as %3F, '#' as %23")
        path = unquote(uri.path)
    if not path.startswith("/"):
        raise ValueError(f"paths: {text!r} is not absolute; write /mnt/x or file:///mnt/x")
    return Path(path)
