"""How a node tells its peers what it has, and remembers what they have.

cluster:
  directory: {bytes_max: 1GiB, pace: 20ms}

Durations are seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from penstock.actors.config_words import Count
from penstock.runtime.config import Config
from penstock.runtime.membership_config import check_seconds
from penstock.runtime.units import KIB, MIB, ByteSize, Seconds


class DirectoryConfig(Config, frozen=True):
    """Who has what."""

    bytes_max: ByteSize = ByteSize(256 * MIB)  # of what all peers have told; 2 bytes a chunk
    peers_max: Count = 1024  # that are remembered at once
    retry: Seconds = Seconds(30)  # a peer that there was no room for is asked again after this
    pace: Seconds = Seconds(0.05)  # between two batches of changes to the peers
    # chunks in one batch, and looked at in one step of going through L1
    batch_chunks: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 4096
    # changes kept for peers that are slow; one that is behind all of them gets a snapshot
    backlog_max: ByteSize = ByteSize(16 * MIB)
    changes_max: Count = 65536  # kept by L1 until the directory takes them
    watchers_max: Annotated[int, msgspec.Meta(ge=1, le=2048)] = 1024  # peers that are told
    ask_within: Seconds = Seconds(5)  # what L1 may take to answer the directory
    messages_max: Count = 4096  # that wait for the directory

    def __post_init__(self) -> None:
        check_seconds(self, "retry", "pace", "ask_within")
        if self.bytes_max < 64 * KIB:
            raise ValueError("bytes_max must be at least 64KiB: less has room for no peer")
        if self.backlog_max < 64 * KIB:
            raise ValueError("backlog_max must be at least 64KiB")
