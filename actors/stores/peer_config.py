"""How the store of what other nodes have in their L1 is configured.

- name: peers
  type: peer
  hedge_after: 200ms

A node with `cluster` has one without being told, before all others.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from penstock.actors.stores.config import StoreConfig, WritePolicy, check_durations
from penstock.runtime.units import Seconds


class PeerStoreConfig(StoreConfig, frozen=True, kw_only=True, tag="peer"):
    """Other nodes' L1. Nothing is written there: their own engines do."""

    write: WritePolicy = WritePolicy.NONE
    write_back: bool = False  # true: what is read from a peer stays here, too
    read_within: Seconds = Seconds(3)  # one peer's part of a load; below load_within
    # a peer that sends nothing for so long loses its part to another that promises it
    hedge_after: Seconds = Seconds(0.5)
    peers_max: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3  # asked for one object, one by one

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_shared()
        check_durations(self, "read_within", "hedge_after")
        if self.write is not WritePolicy.NONE:
            raise ValueError("write: what peers have is written by their own engines; leave it out")
        if self.transforms:
            raise ValueError("transforms: what peers have in L1 is as it is; leave it out")
        if self.read_within >= self.load_within:
            raise ValueError(
                f"read_within must be below load_within, {self.load_within:g} s: what a peer did"
                " not give in its time could not be asked of another"
            )
