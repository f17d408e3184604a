"""How a store behind a storage plugin of NIXL is configured.

- name: weka
  type: nixl
  plugin: GDS
  path: /mnt/weka/kv
  capacity: 20TiB
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import msgspec

from penstock.actors.stores.config import OwnershipName, StoreConfig, check_durations
from penstock.actors.stores.file_config import DurabilityName, FileIo
from penstock.runtime.units import Seconds

Depth = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class LibraryLog(enum.Enum):
    """What NIXL itself writes to the standard error."""

    FATAL = "fatal"
    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"


class NixlConfig(StoreConfig, frozen=True, kw_only=True, tag="nixl"):
    """Objects moved by a storage plugin: files (POSIX, GDS, GDS_MT, HF3FS), or objects (OBJ, AZURE_BLOB)."""

    plugin: Annotated[
        str,
        msgspec.Meta(pattern="^[A-Z0-9_]{1,32}$", description="a name of NIXL's, such as POSIX"),
    ] = "POSIX"
    parameters: dict[str, str] = msgspec.field(default_factory=dict)  # of the plugin; never logged
    path: str = ""  # folder of the files; not for plugins of objects
    prefix: Annotated[
        str,
        msgspec.Meta(pattern="^[!-~]{0,128}$", description="0 to 128 of ASCII, without spaces"),
    ] = ""  # of names of objects
    ownership: OwnershipName = OwnershipName.EXCLUSIVE  # of files; objects are shared
    io: FileIo = FileIo.DIRECT  # of files
    durability: DurabilityName = DurabilityName.NONE  # of files
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4  # batches under way at a time
    depth: Depth = 64  # transfers under way at a time, of one batch
    pause_max: Seconds = Seconds(0.002)  # between two looks at transfers under way
    close_within: Seconds = Seconds(10)  # transfers that take longer are left behind
    log: LibraryLog = LibraryLog.ERROR  # the first store of a process decides

    @property
    def close_s_max(self) -> float:
        return self.close_within

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ownership is OwnershipName.SHARED:
            self.check_shared()
        check_durations(self, "pause_max", "close_within")
        if self.path and not Path(self.path).is_absolute():
            raise ValueError(f"path: {self.path!r} is not absolute")

    def __repr__(self) -> str:
        return f"NixlConfig(name={self.name!r}, plugin={self.plugin!r}, parameters=***)"
