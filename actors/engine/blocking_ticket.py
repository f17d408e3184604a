"""Tickets and leases for threads: the same as of the asynchronous client, with futures where that one is awaited.

with client.lookup(tokens).result() as ticket:
    for chunks in ticket.progress(within=2.0):      # or ticket.ready().result()
        ...
    with ticket.acquire().result() as lease:
        lease.copy_to([layout], [block_ids]).result()
        loaded = lease.release().result()           # only this makes the bytes count
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from penstock._native import PagedLayout
from penstock.actors.api.types import Shortfall
from penstock.actors.engine.arguments import read_within
from penstock.actors.engine.client_thread import ClientThread
from penstock.actors.engine.copying import BlockIds
from penstock.actors.engine.counting import Loaded
from penstock.actors.engine.leases import ReadLease
from penstock.actors.engine.ticket import Ticket, TicketHandle
from penstock.runtime.errors import CallerError


class BlockingTicket:
    """`Ticket` for any number of threads. Ends when it is cancelled, or nobody refers to it any more; that of a pin
    (`prefetch` with `pin_s`) only when it is cancelled, or by its time; a joined one where it was looked up.

    Its numbers are the newest the node has told, and may be read at any time.
    """

    def __init__(self, ticket: Ticket, thread: ClientThread) -> None:
        self._ticket = ticket  # belongs to `thread`; its numbers may be read anywhere
        self._thread = thread

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._ticket)[1:]}"

    def on(self, thread: ClientThread) -> Ticket:
        """The ticket that lives on `thread`. Raises CallerError when it lives on another."""
        if self._thread is not thread:
            raise CallerError("the ticket is of another client: use that one, or join its handle")
        return self._ticket

    # What it knows.

    @property
    def total_chunks(self) -> int:
        """Whole chunks of the prompt."""
        return self._ticket.total_chunks

    @property
    def hit_chunks(self) -> int:
        """`Ticket.hit_chunks`."""
        return self._ticket.hit_chunks

    @property
    def hit_tokens(self) -> int:
        """`Ticket.hit_tokens`."""
        return self._ticket.hit_tokens

    @property
    def promised_chunks(self) -> int:
        """`Ticket.promised_chunks`."""
        return self._ticket.promised_chunks

    @property
    def chunk_tokens(self) -> int:
        """`Ticket.chunk_tokens`."""
        return self._ticket.chunk_tokens

    @property
    def is_final(self) -> bool:
        """`Ticket.is_final`."""
        return self._ticket.is_final

    @property
    def shortfall(self) -> Shortfall:
        """`Ticket.shortfall`."""
        return self._ticket.shortfall

    @property
    def is_over(self) -> bool:
        """`Ticket.is_over`."""
        return self._ticket.is_over

    @property
    def is_lost(self) -> bool:
        """`Ticket.is_lost`."""
        return self._ticket.is_lost

    @property
    def handle(self) -> TicketHandle:
        """`Ticket.handle`."""
        return self._ticket.handle

    # Waiting.

    def ready(self) -> Future[int]:
        """`hit_chunks` once the watermark is final, or `ready_within_s` have passed. Raises as any request."""

        async def wait() -> int:
            return await self._ticket.ready

        return self._thread.submit(wait)

    def progress(self, *, within: float | None = None) -> Iterator[int]:
        """The watermark in chunks: as it is now, then whenever it has moved, until it is final.

        Waits on the caller's thread, at most `within` seconds in all (None: `ready_within_s`), and then ends without
        being final. Level-triggered: a slow reader sees the newest value and not every one. Raises as any request;
        CallerError in a future's callback, which must not wait.
        """
        given = read_within(within)
        at_most = self._ticket.ready_within_s if given is None else given
        ends = time.monotonic() + at_most
        seen = -1
        while True:
            is_final = self._ticket.is_final  # before the number: that one is then the last
            if (hit_chunks := self._ticket.hit_chunks) != seen:
                seen = hit_chunks
                yield seen
            elif is_final or (left := ends - time.monotonic()) <= 0:
                return
            else:
                self._wait_moved(seen, left)

    def _wait_moved(self, seen: int, within: float) -> None:
        self._thread.check_may_wait()
        self._thread.submit(lambda: self._ticket.wait_moved(seen, within=within)).result()

    # Using.

    def acquire(
        self, rank: int = 0, first_chunk: int = 0, *, within: float | None = None
    ) -> Future[BlockingLease]:
        """`Ticket.acquire`. `BlockingClient.load` does all of it at once."""

        async def acquire() -> BlockingLease:
            lease = await self._ticket.acquire(rank, first_chunk, within=within)
            return BlockingLease(lease, self._thread)

        return self._thread.submit(acquire)

    def cancel(self) -> None:
        """Give the ticket up: its pins go, leases acquired from it live on. Idempotent; never waits, never fails.

        Comes before every request that is made after it.
        """
        self._thread.do_soon(self._ticket.cancel_nowait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()


class BlockingLease:
    """`ReadLease` for threads. Ends when it is released or dropped, or nobody refers to it any more."""

    def __init__(self, lease: ReadLease, thread: ClientThread) -> None:
        self._lease = lease
        self._thread = thread

    @property
    def first_chunk(self) -> int:
        """Where in the prompt its first chunk is."""
        return self._lease.first_chunk

    @property
    def chunks(self) -> int:
        """How many chunks can be read under it."""
        return self._lease.chunks

    @property
    def is_over(self) -> bool:
        """Whether it was released or dropped."""
        return self._lease.is_over

    def copy_to(
        self,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        skip_tokens: int = 0,
        layers: range | None = None,
    ) -> Future[None]:
        """`ReadLease.copy_to`. The blocks must stay until the future is settled, even when it is cancelled."""
        return self._thread.submit(
            lambda: self._lease.copy_to(layouts, block_ids, skip_tokens=skip_tokens, layers=layers)
        )

    def release(self, *, skip_tokens: int = 0) -> Future[Loaded]:
        """`ReadLease.release`: what of the copied bytes counts."""
        return self._thread.submit(lambda: self._lease.release(skip_tokens=skip_tokens))

    def drop(self) -> None:
        """Give the lease up; nothing that was copied under it counts. Idempotent; never waits, never fails."""
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
