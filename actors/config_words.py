"""Words that the configuration records of several parts share."""

from __future__ import annotations

import enum
from typing import Annotated, TypeAlias

import msgspec

from penstock.runtime.config import Config
from penstock.runtime.units import ByteSize

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class PolicyName(enum.Enum):
    """What L1, or a store that is ours alone, gives up first."""

    LRU = "lru"
    S3FIFO = "s3fifo"
    SIEVE = "sieve"
    ARC = "arc"
    TINYLFU = "tinylfu"
    PROSPECT = "prospect"


class TenantQuota(Config, frozen=True):
    """What one tenant (a cache salt) may hold in one tier."""

    salt: str
    bytes: ByteSize  # 0: no bound
    weight: Annotated[int, msgspec.Meta(ge=1, le=1000)] = (
        1  # of its share of a full L1; see l1.fair_share
    )

    def __repr__(self) -> str:
        return f"TenantQuota(salt=***, bytes={self.bytes!r})"
