"""What a node gives its peers of its L1, and at what pace; and what its operators may have it hold.

cluster:
  pins: {bytes_max: 4GiB}
  reads: {bytes_max: 2GiB, within: 5s}

Durations are seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from penstock.runtime.config import Config
from penstock.runtime.membership_config import check_seconds
from penstock.runtime.units import GIB, KIB, MIB, ByteSize, Seconds

PEER_READS_BOUND = 4096


class ReadsConfig(Config, frozen=True):
    """Reads of peers from this node's L1. What they read is held meanwhile."""

    peer_max: Annotated[int, msgspec.Meta(ge=1, le=PEER_READS_BOUND)] = 32  # of one peer at a time
    objects_max: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1024  # in one read
    peer_bytes_max: ByteSize = ByteSize(256 * MIB)  # held by the reads of one peer
    bytes_max: ByteSize = ByteSize(GIB)  # held by those of all; beyond, they take turns
    within: Seconds = Seconds(10)  # one read, at most; a peer that takes longer gets no more of it

    def __post_init__(self) -> None:
        check_seconds(self, "within")
        if not 4 * KIB <= self.peer_bytes_max <= self.bytes_max:
            raise ValueError("needs 4KiB <= peer_bytes_max <= bytes_max")


class PinsConfig(Config, frozen=True):
    """Prompts that `penstock cluster pin` has this node hold."""

    pins_max: Annotated[int, msgspec.Meta(ge=0, le=65536)] = 64
    bytes_max: ByteSize = ByteSize(GIB)  # of L1, held by all of them
    within: Seconds = Seconds(3600)  # one of them, at most

    def __post_init__(self) -> None:
        check_seconds(self, "within")
