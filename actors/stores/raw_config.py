"""How a raw block store is configured.

- name: nvme
  type: raw_block
  per_rank_device_paths:        # or paths: /dev/nvme0n1,/dev/nvme1n1
    0: /dev/disk/by-id/nvme-a-part3
    1: /dev/disk/by-id/nvme-b-part3
  slot_bytes: 1MiB
  durability: fdatasync
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from penstock.actors.config_words import Count
from penstock.actors.core.slot_format import HEAD_BYTES, NO_RANK
from penstock.actors.stores.config import StoreConfig, check_durations
from penstock.actors.stores.file_config import Depth, DurabilityName, Threads
from penstock.actors.stores.store import BLOCK_BYTES
from penstock.runtime.units import KIB, ByteSize, Seconds

BLOCK_ALIGN_MAX = HEAD_BYTES // 2
SLOT_BYTES_MAX = 1 << 40


class RawPlace(NamedTuple):
    """One device or file of a store."""

    path: Path
    rank: int  # whose objects go here; NO_RANK: those of all


class RawBlockConfig(StoreConfig, frozen=True, kw_only=True, tag="raw_block"):
    """Objects in the slots of block devices, partitions or preallocated files.

    `capacity` bounds all bytes used on all of them together, log included; files are made so large.
    """

    paths: str | tuple[str, ...] = ()  # objects are spread by key; comma lists of paths
    per_rank_device_paths: Mapping[int | str, str] = msgspec.field(default_factory=dict)
    block_align: ByteSize = ByteSize(
        4 * KIB
    )  # what places and lengths on the device are multiples of
    header_bytes: ByteSize = ByteSize(4 * KIB)  # a payload starts at the first multiple of it
    slot_bytes: ByteSize = ByteSize(256 * KIB)  # room is given in these
    metadata_bytes: ByteSize = ByteSize(0)  # of each log; 0: as large as it has to be
    preallocate: bool = (
        True  # files; otherwise they grow as they are written, and may find the disk full
    )
    discard: bool = False  # the medium is told of slots that hold nothing any more
    durability: DurabilityName = DurabilityName.NONE
    depth: Depth = 64  # reads and writes under way at a time, by io_uring
    threads: Threads = 8  # and where that is refused, by so many threads
    jobs_max: Count = 16384  # under way and waiting: objects of all batches together
    open_within: Seconds = Seconds(
        60
    )  # it opens when its log is read: some seconds a million objects
    lock_within: Seconds = Seconds(5)  # of it, for whoever had the devices before to let go of them

    def __post_init__(self) -> None:
        super().__post_init__()
        check_durations(self, "lock_within")
        places = self.places()
        for number, place in enumerate(places):
            for other in places[:number]:
                if os.path.realpath(place.path) == os.path.realpath(other.path):
                    raise ValueError(shared(place, other))
        if not _is_power_of_two(self.block_align) or not (
            BLOCK_BYTES <= self.block_align <= BLOCK_ALIGN_MAX
        ):
            raise ValueError(
                f"block_align must be a power of two from 4KiB to 64KiB, not {self.block_align}"
            )
        for name in ("header_bytes", "slot_bytes", "metadata_bytes"):
            size = getattr(self, name)
            if size % self.block_align:
                raise ValueError(
                    f"{name} must be a multiple of block_align, {self.block_align}, not {size}"
                )
        if not 0 < self.header_bytes <= BLOCK_ALIGN_MAX:
            problem = f"up to {BLOCK_ALIGN_MAX}, not {self.header_bytes}"
            raise ValueError(f"header_bytes must be {self.block_align} {problem}")
        if not self.header_bytes < self.slot_bytes <= SLOT_BYTES_MAX:
            raise ValueError(
                f"slot_bytes must be more than header_bytes, {self.header_bytes}, not {self.slot_bytes}"
            )
        if self.jobs_max < self.depth:
            raise ValueError(f"jobs_max must be at least depth, {self.depth}")

    @property
    def places_key(self) -> str:
        """The key of the configuration that names the places."""
        return "per_rank_device_paths" if self.per_rank_device_paths else "paths"

    def places(self) -> tuple[RawPlace, ...]:
        """In order. Raises ValueError."""
        if bool(self.paths) == bool(self.per_rank_device_paths):
            raise ValueError(
                "give either paths or per_rank_device_paths, such as paths: /dev/nvme0n1p3"
            )
        if not self.per_rank_device_paths:
            texts = [self.paths] if isinstance(self.paths, str) else self.paths
            parts = [part.strip() for text in texts for part in text.split(",")]
            return tuple(RawPlace(_path(part), NO_RANK) for part in parts)
        by_rank: dict[int, Path] = {}
        for key, text in self.per_rank_device_paths.items():
            rank = _rank(key)
            if rank in by_rank:
                raise ValueError(f"per_rank_device_paths: rank {rank} is given twice")
            by_rank[rank] = _path(text.strip())
        return tuple(RawPlace(path, rank) for rank, path in sorted(by_rank.items()))


def shared(one: RawPlace, other: RawPlace) -> str:
    """That two places are the same medium, and what to do."""
    who = f"ranks {other.rank} and {one.rank}" if one.rank != NO_RANK else "two entries"
    problem = f"{who} share {other.path}" + (f" ({one.path})" if one.path != other.path else "")
    return f"{problem} and would overwrite each other: give each a device, partition or file of its own"


def _path(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute path, such as /dev/nvme0n1p3")
    return Path(text)


def _rank(key: int | str) -> int:
    try:
        rank = int(key)
    except ValueError:
        rank = -1
    if not 0 <= rank <= 0xFFFF:
        raise ValueError(
            f"per_rank_device_paths: {key!r} is no rank: write 0, 1, ... or '0', '1', ..."
        )
    return rank


def _is_power_of_two(number: int) -> bool:
    return number > 0 and not number & (number - 1)
