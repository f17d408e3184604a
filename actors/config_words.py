"""Words that the configuration records of several parts share."""

from __future__ import annotations

import enum
from collections.abc import Sequence
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


def check_quotas(
    tenant_bytes_max: int, quotas: Sequence[TenantQuota], bound: str, bytes_max: int
) -> None:
    """Raises ValueError for a quota that bounds nobody, as it is above `bytes_max`, which the key `bound` says. Salts
    are told by their place."""
    given = [("tenant_bytes_max", tenant_bytes_max)]
    given += [(f"quotas.{at}.bytes", one.bytes) for at, one in enumerate(quotas)]
    for name, size in given:
        if size > bytes_max:
            raise ValueError(
                f"{name} is {int(size)}, above {bound}, {int(bytes_max)}, and would bound nobody: give it less,"
                " or 0 for no bound"
            )
