"""How a store in mapped files or DAX devices is configured.

- name: pmem
  type: dax
  slot_bytes: 4MiB                       # of the largest object, its header included
  arenas:
    - {path: /mnt/pmem0/penstock, bytes: 256GiB}
    - {path: /dev/dax1.0, bytes: 512GiB}
  msync: save
"""

from __future__ import annotations

import enum
import os
from pathlib import Path

from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.store import BLOCK_BYTES
from penstock.runtime.config import Config
from penstock.runtime.units import ByteSize

ARENAS_MAX = 64


class Msync(enum.Enum):
    """What a power cut may take of what was said to be saved. It never makes a damaged object count."""

    NONE = "none"  # what the kernel had not written yet
    SAVE = "save"  # nothing: an object is synced, then its entry, then it is said


class ArenaConfig(Config, frozen=True):
    path: Path
    bytes: ByteSize = ByteSize(0)  # a file that is not there is made so large; 0: as it is

    def __post_init__(self) -> None:
        if not self.path.is_absolute():
            raise ValueError(f"path: {self.path} is not absolute")


class DaxConfig(StoreConfig, frozen=True, kw_only=True, tag="dax"):
    """Objects in slots of mapped memory; one size of slots."""

    arenas: tuple[ArenaConfig, ...]
    slot_bytes: ByteSize
    msync: Msync = Msync.NONE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.arenas) <= ARENAS_MAX:
            raise ValueError(f"arenas: there must be 1 to {ARENAS_MAX}, not {len(self.arenas)}")
        if len({os.path.realpath(one.path) for one in self.arenas}) != len(self.arenas):
            raise ValueError("arenas: one path is named twice")
        if self.slot_bytes % BLOCK_BYTES or self.slot_bytes < 2 * BLOCK_BYTES:
            raise ValueError(f"slot_bytes must be a multiple of {BLOCK_BYTES}, at least two")
