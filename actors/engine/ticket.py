"""A ticket: what one lookup found, what is still on its way, and the right to read it."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Self

from anyio import Event, move_on_after

from penstock.actors.api.types import Shortfall
from penstock.actors.engine.errors import RankBusy, StaleEpoch, StaleGrant
from penstock.runtime.deadline import time_left

if TYPE_CHECKING:
    from penstock.actors.engine.leases import ReadLease
    from penstock.actors.engine.session import AcquiredLease, Session


@dataclass(frozen=True, slots=True)
class TicketHandle:
    """A ticket's name, to be passed to the workers of the same engine instance: plain values, small, no secret
    outside the instance. `Client.join` makes a ticket of it there."""

    epoch: bytes
    ticket: bytes
    total_chunks: int
    hit_chunks: int


class Role(Enum):
    """What this process has to do with a ticket."""

    LOOKED_UP = "it is cancelled here, or when nobody here refers to it any more"
    PINNED = "it is cancelled here, or ends by its time"
    JOINED = "another process looked it up, and cancels it"


class Ticket:
    """One lookup under way, or over. Made by `Client.lookup`; belongs to the engine instance.

    OPEN --final watermark--> FINAL --cancel(), or nobody refers to it any more--> OVER
      '------- the session's stream ended: hit_chunks falls to 0, nobody is kept waiting ------^

    The pins of a ticket go when it is over; leases acquired from it live on. A miss has no ticket at the node: it is
    FINAL from the start. Belongs to the client's event loop; only its destructor may run elsewhere.
    """

    def __init__(
        self,
        session: Session | None,
        ticket: bytes,
        *,
        chunk_tokens: int,
        total_chunks: int,
        role: Role = Role.LOOKED_UP,
    ) -> None:
        self._session = session if ticket else None
        self._role = role
        self._ticket = ticket  # 16 bytes; empty: a miss, nothing is pinned
        self._chunk_tokens = chunk_tokens
        self._hit_chunks = 0  # <= _promised_chunks
        self._promised_chunks = 0  # <= total_chunks
        self._is_final = not ticket
        self._is_over = not ticket
        self._is_lost = False
        self._shortfall = Shortfall.NONE
        self._changed = Event()  # replaced whenever it is set
        # Of acquire_alone, by rank: its lease; None while it is on its way.
        self._alone: dict[int, weakref.ref[ReadLease] | None] = {}
        self.total_chunks = total_chunks

    def __repr__(self) -> str:
        state = "over" if self._is_over else "final" if self._is_final else "open"
        return f"<Ticket {self._hit_chunks}/{self.total_chunks} chunks, {state}>"

    # What it knows.

    @property
    def hit_chunks(self) -> int:
        """Chunks of the prompt, from its start, that are readable now: the watermark."""
        return self._hit_chunks

    @property
    def hit_tokens(self) -> int:
        """`hit_chunks` in tokens."""
        return self._hit_chunks * self._chunk_tokens

    @property
    def promised_chunks(self) -> int:
        """What the watermark can still reach."""
        return self._promised_chunks

    @property
    def is_final(self) -> bool:
        """Whether the watermark will not rise any more."""
        return self._is_final

    @property
    def shortfall(self) -> Shortfall:
        """Why the final watermark is below what the prompt could have had: a load that lost to computing, say."""
        return self._shortfall

    @property
    def is_over(self) -> bool:
        """Whether nothing can be acquired from it any more."""
        return self._is_over

    @property
    def is_lost(self) -> bool:
        """Whether its session ended before it did."""
        return self._is_lost

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk; 0 for a miss without a node."""
        return self._chunk_tokens

    @property
    def handle(self) -> TicketHandle:
        """Its name for other processes of this engine instance."""
        epoch = b"" if self._session is None else self._session.epoch
        return TicketHandle(epoch, self._ticket, self.total_chunks, self._hit_chunks)

    # Waiting.

    @property
    def ready(self) -> Ready:
        """Awaitable; gives `hit_chunks` once the watermark is final, or `ready_within_s` have passed."""
        return Ready(self)

    async def progress(self) -> AsyncIterator[int]:
        """The watermark in chunks: as it is now, then whenever it has moved, until it is final.

        Level-triggered: a slow reader sees the newest value and not every one. Ends with the ticket's life at the
        latest, or with the session.
        """
        seen = -1
        while True:
            if self._hit_chunks != seen:
                seen = self._hit_chunks
                yield seen
            elif self._is_final:
                return
            else:
                await self._changed.wait()

    async def wait_moved(self, seen: int, *, within: float) -> None:
        """Wait until the watermark is not `seen` any more, or is final; at most `within` seconds."""
        with move_on_after(time_left(at_most=within)):
            while self._hit_chunks == seen and not self._is_final:
                await self._changed.wait()

    async def _wait_ready(self) -> int:
        if not self._is_final:
            with move_on_after(time_left(at_most=self.ready_within_s)):
                while not self._is_final:
                    await self._changed.wait()
        return self._hit_chunks

    @property
    def ready_within_s(self) -> float:
        """How long waiting for a final watermark may take; 0 for a miss, which is final."""
        return 0.0 if self._session is None else self._session.config.ready_within_s

    # Using.

    async def acquire(
        self, rank: int = 0, first_chunk: int = 0, *, within: float | None = None
    ) -> ReadLease:
        """Turn the reader slot of `rank` into a lease of this process, for the chunks from `first_chunk`.

        Idempotent per rank. Raises StaleGrant when the ticket is over, StaleEpoch when its session is; RankTaken,
        RequestRefused for a bad rank, MovesNoBytes, NodeExhausted, DeadlineExceeded, StreamLost.
        """
        return (await self._acquire(rank, first_chunk, within)).lease

    async def acquire_alone(
        self, rank: int = 0, first_chunk: int = 0, *, within: float | None = None
    ) -> ReadLease:
        """As `acquire`, for a lease that nobody else in this process holds. Raises RankBusy when somebody does."""
        if not self._is_free(rank):
            raise _rank_busy(rank)
        self._alone[rank] = None
        try:
            acquired = await self._acquire(rank, first_chunk, within)
        finally:
            del self._alone[rank]
        if acquired.is_new:
            self._alone[rank] = weakref.ref(acquired.lease)
            return acquired.lease
        if acquired.lease.is_ending:
            raise StaleGrant(f"the last lease of rank {rank} is just being given up")
        raise _rank_busy(rank)

    def _is_free(self, rank: int) -> bool:
        """Whether nobody is acquiring it alone, or has: a lease that ends while its twin is on the way is no lease."""
        if rank not in self._alone:
            return True
        known = self._alone[rank]
        lease = None if known is None else known()
        return known is not None and (lease is None or lease.is_ending)

    async def _acquire(self, rank: int, first_chunk: int, within: float | None) -> AcquiredLease:
        if self._session is None:
            raise StaleGrant("the ticket is a miss: there is nothing to acquire")
        if not self._session.is_open:
            raise StaleEpoch("the session of this ticket has ended: look the prompt up again")
        if self._is_over:
            raise StaleGrant("the ticket was cancelled: look the prompt up again")
        return await self._session.acquire(
            self._ticket, rank=rank, first_chunk=first_chunk, within=within
        )

    async def cancel(self) -> None:
        """Give the ticket up: its pins go, leases acquired from it live on. Idempotent; never fails.

        Does not wait for the node: the cancellation has its place in the outgoing queue from the start.
        """
        self.cancel_nowait()

    def cancel_nowait(self) -> None:
        """As `cancel`, from where nothing can be awaited."""
        if not self._is_over:
            self._end()
            if self._session is not None and self._role is not Role.JOINED:
                self._session.end_ticket(self._ticket)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel_nowait()

    def __del__(self) -> None:
        if not self._is_over and self._role is Role.LOOKED_UP and self._session is not None:
            self._session.end_ticket_threadsafe(self._ticket)

    # News from the session.

    def advance(
        self,
        *,
        hit_chunks: int,
        promised_chunks: int,
        is_final: bool,
        shortfall: Shortfall = Shortfall.NONE,
    ) -> None:
        """The node tells the newest state. What is over stays over, and the watermark never goes back."""
        if self._is_over:
            return
        self._hit_chunks = max(self._hit_chunks, min(hit_chunks, self.total_chunks))
        self._promised_chunks = max(self._hit_chunks, min(promised_chunks, self.total_chunks))
        self._is_final = self._is_final or is_final
        self._shortfall = shortfall
        self._wake()

    def lose(self) -> None:
        """The session's stream ended: nothing of the ticket can be read any more."""
        if not self._is_over:
            self._is_lost = True
            self._hit_chunks = self._promised_chunks = 0
            self._end()

    def _end(self) -> None:
        self._is_over = self._is_final = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()


def _rank_busy(rank: int) -> RankBusy:
    return RankBusy(
        f"this process reads under the lease of rank {rank} already: await that first, or look up with more"
        " readers and load under another rank"
    )


class Ready:
    """Waits for a ticket's final watermark. May be awaited by many, any number of times."""

    __slots__ = ("_ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket

    def __await__(self) -> Generator[object, None, int]:
        return self._ticket._wait_ready().__await__()  # noqa: SLF001 - one concept in two classes
