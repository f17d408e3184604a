"""How a node pushes what its engines prefill to other nodes, and takes in what others push to its engines.

Durations are seconds, sizes bytes. A node without `cluster.pd` does neither.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from penstock.actors.config_words import Count
from penstock.runtime.config import Config
from penstock.runtime.membership_config import check_seconds
from penstock.runtime.units import GIB, KIB, MIB, ByteSize, Seconds

PAGE_BYTES = 4 * KIB


class PdConfig(Config, frozen=True):
    """Prefill to decode, both ways."""

    # Memory beside l1.bytes that nothing else may use, for what others push: a multiple of 4 KiB, or 0 for a node that
    # only sends.
    receive: ByteSize = ByteSize(1 * GIB)
    max_prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] = (
        0  # the longest prompt that is expected here; engines for which `receive` is too small are refused. 0: not told
    )
    # One landing and one lease of L1: what it holds is readable when all of it has come.
    part: ByteSize = ByteSize(32 * MIB)
    part_objects: Annotated[int, msgspec.Meta(ge=1, le=65536)] = (
        256  # the same; whichever comes first
    )
    ageing: Seconds = Seconds(1)  # waiting so long for the budget counts as one priority more
    receives_max: Count = 256  # pushes being taken in, or waiting for the budget
    requests_max: Count = 1024  # requests that are expected, or have come before they were
    # Of all prompts together that are pushed from here or expected: each commit looks at every one of them.
    chunks_max: Count = 65536
    # How long a side waits for the other.
    offer_within: Seconds = Seconds(10)  # from the engine's PdExpect to the first offer
    allocation: Seconds = Seconds(10)  # for the receive budget
    transfer: Seconds = Seconds(120)  # from the first grant to the end, the prefill included
    idle: Seconds = Seconds(10)  # without a word of the other side; and for an engine to come
    query: Seconds = Seconds(1)  # until a sender asks whether the receiver is there
    # Sending.
    sends_max: Count = 256  # pushes under way; one more is refused
    batch: ByteSize = ByteSize(8 * MIB)  # given to the data channel at a time
    batch_objects: Count = 64  # the same; whichever comes first
    batches_max: Count = 4  # of one push, being sent at once
    # Runs of one push that engines have said are written, before their objects are committed: remembered until then.
    early_runs_max: Count = 16384
    inflight: ByteSize = ByteSize(256 * MIB)  # of all pushes, being sent at once
    outcomes_max: Count = 4096  # of pushes that are over, remembered
    waiters_max: Annotated[int, msgspec.Meta(ge=1, le=512)] = 256  # who wait for outcomes

    def __post_init__(self) -> None:
        if self.receive % PAGE_BYTES:
            raise ValueError(f"receive must be a multiple of {PAGE_BYTES}, not {self.receive}")
        check_seconds(self, "ageing", "offer_within", "allocation", "transfer", "idle", "query")
        if not self.query * 2 <= self.idle:
            raise ValueError("query must be at most half of idle, or silence is taken for death")
        for name in ("part", "batch", "inflight"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be 0")
