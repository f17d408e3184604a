"""One data connection over NIXL: one-sided writes, and the words that say when they are over.

    open ──(aclose, the peer's END, an error)──► lost: no write begins any more
         ── our writes are over ──► END is said ── the peer's END is heard, or our agent is ended ──► over

A landing is closed when the sender has said that nothing of it is under way any more, or when the connection is over.
Until then its memory is held. Of a sender that says nothing, the end of our own agent proves that it writes no more;
whether parting with one remote agent would is for each transport to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from penstock.runtime import nixl_words as words
from penstock.runtime.channel import (
    Arrived,
    ChannelKind,
    ChannelLost,
    ChannelStatistics,
    Landing,
    LandingRefused,
    LandingSlot,
    Piece,
)
from penstock.runtime.nixl_agent import NixlAgent, NixlFailed, NixlOptions, Region
from penstock.runtime.nixl_landings import ClosedLandings, NixlLanding, region_of
from penstock.runtime.nixl_words import Grant, Heard, Unreadable, Word
from penstock.runtime.units import MIB

PART_BYTES = 4 * MIB  # of one write: closing a landing waits for those that are under way
WRITES_MAX = 4  # of one send under way at a time


class NixlConnection:
    """See `runtime.channel.Connection`."""

    kind = ChannelKind.NIXL

    def __init__(
        self,
        agent: NixlAgent,
        options: NixlOptions,
        peer: str,
        name: bytes,
        *,
        places: asyncio.Semaphore,
        give_up: Callable[[NixlAgent, str], None],
        when_over: Callable[[NixlConnection], None],
    ) -> None:
        """`give_up` an agent, with all of its connections, for a reason."""
        self.statistics = ChannelStatistics()
        self.peer = peer  # the agent's name
        self.name = name  # of this connection, at both ends
        self.taken = asyncio.Event()  # the listener knows us
        self._agent = agent
        self._options = options
        self._places = places
        self._give_up = give_up
        self._when_over = when_over
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = self._loop.create_future()
        self._over = asyncio.Event()
        self._peer_ended = asyncio.Event()
        self._landings: dict[int, NixlLanding] = {}
        self._next = 0
        self._closed_there = ClosedLandings()
        self._writes: dict[asyncio.Future[None], int] = {}  # under way, and their landings
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_lost(self) -> bool:
        return self._lost.done()

    def open_landing(self, slots: Sequence[LandingSlot], arrived: Arrived) -> Landing:
        """Memory that is not of the arena is told to NIXL first, which may take a while. Raises ChannelLost;
        CapacityError for more slots than a grant holds."""
        self._check_open()
        landing = NixlLanding(self._next, tuple(slots), arrived, self._close_landing)
        try:
            landing.prepare(self.name, self._agent)
        except NixlFailed as failed:
            raise ChannelLost(str(failed)) from None
        self._landings[self._next] = landing
        self._next += 1
        self._agent.awaited += 1
        return landing

    async def send(self, grant: bytes, pieces: Sequence[Piece]) -> None:
        self._check_open()
        try:
            known = Grant.decoded(grant)
        except Unreadable as unreadable:
            raise LandingRefused(str(unreadable)) from None
        self._check(known, pieces)
        mine: set[asyncio.Future[None]] = set()
        try:
            if known.metadata:
                await self._agent.meet(known.metadata)
            for pairs, note, some, is_last_of_large in self._batches(known, pieces):
                while len(mine) >= WRITES_MAX or (is_last_of_large and mine):
                    await self._unless_lost(next(iter(mine)))
                    mine = {one for one in mine if not one.done()}
                await self._begin(known, pairs, note, some, mine)
            for one in mine:
                await self._unless_lost(one)
        except NixlFailed as failed:
            self.lose(f"{failed}")
            raise ChannelLost(f"{failed}") from None
        self.statistics.pieces_sent += len(pieces)
        self.statistics.bytes_sent += sum(one.payload.nbytes for one in pieces)

    async def wait_lost(self) -> str:
        return await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        self.lose("it was closed here")
        await self._over.wait()

    def hear(self, said: Heard) -> None:
        """A word of the peer."""
        match said.word:
            case Word.TAKEN:
                self.taken.set()
            case Word.ARRIVED:
                self._hear_arrived(said)
            case Word.CLOSE:
                self._closed_there.add(said.landing)
                self._start(self._answer_close(said.landing))
            case Word.CLOSED:
                if (landing := self._landings.get(said.landing)) is not None and landing.is_closed:
                    landing.drained.set()
            case Word.END:
                self._peer_ended.set()
                self._drain_landings()
                self.lose("the peer ended it")
            case Word.SHOW:
                self.lose("the peer broke the protocol")

    def lose(self, reason: str) -> None:
        """The first reason counts."""
        if not self._lost.done():
            self._lost.set_result(reason)
            self._start(self._end())

    # Sending.

    def _check(self, grant: Grant, pieces: Sequence[Piece]) -> None:
        if grant.connection != self.name:
            raise LandingRefused("this grant was given over another connection")
        if grant.landing in self._closed_there:
            raise LandingRefused("the landing is closed")
        for one in pieces:
            size = grant.slots[one.slot][1] if one.slot < len(grant.slots) else -1
            if one.offset + one.payload.nbytes > size:
                raise LandingRefused("a piece does not lie within its slot")

    def _batches(
        self, grant: Grant, pieces: Sequence[Piece]
    ) -> Iterator[tuple[list[tuple[Region, int]], bytes, list[Piece], bool]]:
        """Writes: what goes where, the note of the pieces that are whole with it, whom it reads, and whether all
        before it must be over first, since it tells of a piece that they are parts of."""
        pairs: list[tuple[Region, int]] = []
        some: list[Piece] = []
        size = 0
        for piece in pieces:
            target = grant.slots[piece.slot][0] + piece.offset
            if piece.payload.nbytes > PART_BYTES:
                yield from self._parts(grant, piece, target)
                continue
            if len(some) == words.PIECES_MAX or size + piece.payload.nbytes > PART_BYTES:
                yield pairs, self._note(grant, some), some, False
                pairs, some, size = [], [], 0
            some.append(piece)
            if piece.payload.nbytes:
                pairs.append((region_of(piece.payload), target))
                size += piece.payload.nbytes
        if some:
            yield pairs, self._note(grant, some), some, False

    def _parts(
        self, grant: Grant, piece: Piece, target: int
    ) -> Iterator[tuple[list[tuple[Region, int]], bytes, list[Piece], bool]]:
        begin, size = region_of(piece.payload)
        for at in range(0, size, PART_BYTES):
            left = min(PART_BYTES, size - at)
            is_last = at + left == size
            note = self._note(grant, [piece]) if is_last else b""
            yield [((begin + at, left), target + at)], note, [piece], is_last

    def _note(self, grant: Grant, pieces: Sequence[Piece]) -> bytes:
        told = [(one.number, one.payload.nbytes) for one in pieces]
        return words.arrived(self.name, grant.landing, told)

    async def _begin(
        self,
        grant: Grant,
        pairs: list[tuple[Region, int]],
        note: bytes,
        keep: list[Piece],
        mine: set[asyncio.Future[None]],
    ) -> None:
        """One write, when there is a place for it."""
        await self._places.acquire()
        begun = False
        try:
            self._check_open()
            if grant.landing in self._closed_there:
                raise LandingRefused("the landing was closed meanwhile")
            if not pairs:
                await self._agent.tell(self.peer, note)
                return
            write = self._agent.write(self.peer, pairs, note, keep)
            begun = True
        finally:
            if not begun:
                self._places.release()
        self._writes[write] = grant.landing
        write.add_done_callback(self._write_over)
        mine.add(write)

    def _write_over(self, write: asyncio.Future[None]) -> None:
        del self._writes[write]
        self._places.release()
        if not write.cancelled() and (error := write.exception()) is not None:
            self.lose(f"{error}")

    async def _unless_lost(self, write: asyncio.Future[None]) -> None:
        await asyncio.wait((write, self._lost), return_when=asyncio.FIRST_COMPLETED)
        if not write.done():
            raise ChannelLost(self._lost.result())
        write.result()

    async def _answer_close(self, landing: int) -> None:
        under_way = [one for one, of in self._writes.items() if of == landing]
        if under_way:
            await asyncio.wait(under_way)
        await self._tell(words.say(Word.CLOSED, self.name, landing))

    # Landing.

    def _hear_arrived(self, said: Heard) -> None:
        landing = self._landings.get(said.landing)
        if landing is None or landing.is_closed:
            self.statistics.pieces_refused += len(said.pieces)
            return
        self.statistics.pieces_received += len(said.pieces)
        self.statistics.bytes_received += sum(size for _, size in said.pieces)
        landing.arrived([number for number, _ in said.pieces])

    def _close_landing(self, landing: NixlLanding) -> None:
        self._agent.awaited -= 1
        if self._over.is_set() or self._peer_ended.is_set():
            landing.drained.set()
        self._start(self._drain(landing))

    async def _drain(self, landing: NixlLanding) -> None:
        """Until the sender has said that it is over; one that does not say so costs the agent."""
        if not landing.drained.is_set():
            await self._tell(words.say(Word.CLOSE, self.name, landing.number))
            try:
                async with asyncio.timeout(self._options.close_within):
                    await landing.drained.wait()
            except TimeoutError:
                self.lose("the peer does not say that it writes no more")
                await landing.drained.wait()
        del self._landings[landing.number]
        landing.let_go(self._agent)

    def _drain_landings(self) -> None:
        for landing in self._landings.values():
            landing.drained.set()

    # The end.

    async def _end(self) -> None:
        """Neither side writes any more: both have said so, or there is no agent by which it could."""
        for landing in list(self._landings.values()):
            landing.close_now()
        try:
            async with asyncio.timeout(self._options.close_within):
                while self._writes:
                    await asyncio.wait(list(self._writes))
                await self._agent.tell(self.peer, words.say(Word.END, self.name))
                if (
                    self.taken.is_set()
                ):  # else the peer may not know it, and there is nothing that it may write
                    await self._peer_ended.wait()
        except (TimeoutError, NixlFailed):
            if self._landings or self._writes:
                self._give_up(self._agent, self._lost.result())
                await self._agent.aclose()
        self._drain_landings()
        self._over.set()
        self._when_over(self)

    async def _tell(self, note: bytes) -> None:
        try:
            await self._agent.tell(self.peer, note)
        except NixlFailed as failed:
            self.lose(f"{failed}")

    def _check_open(self) -> None:
        if self._lost.done():
            raise ChannelLost(self._lost.result())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # until it is over: at most one for each landing, and one
        task.add_done_callback(self._tasks.discard)
