"""Digests of what was loaded, without holding the loop up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from penstock._native import crc64_join_runs, crc64_of_each
from penstock.runtime.units import MIB

INLINE_BYTES_MAX = 4 * MIB
"""Digested in the loop's own step, which takes 0.2 ms; more goes to a thread. To hand a batch of 2 MiB to a thread and
back took a third of all the processor time that its load took."""
T = TypeVar("T")


class Digester:
    """`inline_bytes_max` of a batch are digested at once, more than that in one of `threads` threads."""

    def __init__(self, *, threads: int = 2, inline_bytes_max: int = INLINE_BYTES_MAX) -> None:
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None  # belongs to the running loop
        self._inline_bytes_max = inline_bytes_max

    async def of(self, payloads: Sequence[memoryview]) -> list[int]:
        """CRC-64/NVME of each. Given up, it returns when nobody reads them any more."""
        return await self.run(sum(map(len, payloads)), partial(crc64_of_each, payloads))

    async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
        """`work`, which digests so many bytes without the GIL. Given up, it returns when that is over."""
        if size_bytes <= self._inline_bytes_max:
            return work()
        self._limiter = self._limiter or anyio.CapacityLimiter(self._threads)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def runs_agree(digest: int, run_digests: bytes, logical_bytes: int) -> bool:
    """Whether these are run digests of an object with that digest; cut in unequal runs, nobody can say."""
    runs = len(run_digests) // 8
    if runs == 0 or logical_bytes % runs:
        return True
    return crc64_join_runs(run_digests, run_bytes=logical_bytes // runs) == digest
