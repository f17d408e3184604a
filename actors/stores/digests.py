"""Digests of what was loaded, without holding the loop up."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.to_thread

from penstock._native import crc64, crc64_join_runs

INLINE_BYTES_MAX = 1024 * 1024  # digested in the loop's own step; more goes to a thread


class Digester:
    """`inline_bytes_max` of a batch are digested at once, more than that in one of `threads` threads."""

    def __init__(self, *, threads: int = 2, inline_bytes_max: int = INLINE_BYTES_MAX) -> None:
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None  # belongs to the running loop
        self._inline_bytes_max = inline_bytes_max

    async def of(self, payloads: Sequence[memoryview]) -> list[int]:
        """CRC-64/NVME of each. Given up, it returns when nobody reads them any more."""
        if sum(len(one) for one in payloads) <= self._inline_bytes_max:
            return _digests(payloads)
        self._limiter = self._limiter or anyio.CapacityLimiter(self._threads)
        return await anyio.to_thread.run_sync(_digests, payloads, limiter=self._limiter)

    def at_once(self, payloads: Sequence[memoryview]) -> list[int]:
        """The same of few bytes, in this step."""
        return _digests(payloads)


def runs_agree(digest: int, run_digests: bytes, logical_bytes: int) -> bool:
    """Whether these are run digests of an object with that digest; cut in unequal runs, nobody can say."""
    runs = len(run_digests) // 8
    if runs == 0 or logical_bytes % runs:
        return True
    return crc64_join_runs(run_digests, run_bytes=logical_bytes // runs) == digest


def _digests(payloads: Sequence[memoryview]) -> list[int]:
    return [crc64(one) for one in payloads]
