"""Configuration of stores that any fsspec filesystem backs."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from penstock.actors.stores.config import StoreConfig


class PutName(enum.Enum):
    """How an object becomes visible whole."""

    AUTO = "auto"  # put, where a put is known to be atomic; otherwise rename
    PUT = "put"  # written under its name at once
    RENAME = "rename"  # written aside, then moved


class FsspecConfig(StoreConfig, frozen=True, kw_only=True, tag="fsspec"):
    """A folder of any filesystem that fsspec knows."""

    url: str  # such as sftp://host/folder, hf://buckets/..., memory://folder
    options: dict[str, str | int | float | bool] = msgspec.field(
        default_factory=dict
    )  # of that filesystem; never logged
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8  # calls at a time
    put: PutName = PutName.AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_shared()
        if "://" not in self.url:
            # Not repeated here: what stands there may be a secret.
            raise ValueError("url must be written protocol://path, as in sftp://host/folder")

    def __repr__(self) -> str:
        return f"FsspecConfig(name={self.name!r}, url=***, options=***)"
