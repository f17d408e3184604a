"""The right to write, for threads: with futures where the asynchronous lease is awaited.

with client.reserve(tokens).result() as lease:
    for layer in range(layers):
        lease.copy_from([layout], [block_ids], layers=range(layer, layer + 1)).result()
        transfer.layers(lease, layer)
    lease.commit().result()
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from penstock._native import PagedLayout
from penstock.actors.engine.client_thread import ClientThread
from penstock.actors.engine.copying import BlockIds
from penstock.actors.engine.counting import Stored
from penstock.actors.engine.leases import WriteLease
from penstock.runtime.errors import CallerError


class BlockingWriteLease:
    """`WriteLease` for threads. Ends when all was committed, it is dropped, or nobody refers to it any more."""

    def __init__(self, lease: WriteLease, thread: ClientThread) -> None:
        self._lease = lease  # belongs to `thread`
        self._thread = thread

    def on(self, thread: ClientThread) -> WriteLease:
        """The lease that lives on `thread`. Raises CallerError when it lives on another."""
        if self._thread is not thread:
            raise CallerError("the lease is of another client: use the transfer of that one")
        return self._lease

    @property
    def chunks(self) -> int:
        """How many chunks were asked for."""
        return self._lease.chunks

    @property
    def is_over(self) -> bool:
        """Whether nothing can be written under it (any more)."""
        return self._lease.is_over

    def copy_from(
        self,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        first_chunk: int = 0,
        layers: range | None = None,
    ) -> Future[None]:
        """`WriteLease.copy_from`. The blocks must not change until the future is settled, even when it is cancelled."""
        return self._thread.submit(
            lambda: self._lease.copy_from(
                layouts, block_ids, first_chunk=first_chunk, layers=layers
            )
        )

    def commit(self, *, within: float | None = None) -> Future[Stored]:
        """`WriteLease.commit`; gives what has become of each chunk."""

        async def commit() -> Stored:
            await self._lease.commit(within=within)
            return self._lease.outcome()

        return self._thread.submit(commit)

    def drop(self) -> None:
        """Give the lease up; what was not committed is freed. Idempotent; never waits, never fails."""
        self._thread.do_soon(self._lease.drop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()
