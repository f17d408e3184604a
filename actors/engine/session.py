"""One attached session: the requests of the contract as typed calls, and what dies with the stream.

ATTACHED --stream ends--> OVER: tickets are lost, leases stale, the arena is unmapped when the last copy has ended.
A session never comes back; the client makes a new one (see `link`). Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from penstock.actors.api.types import KEY_BYTES, Shortfall
from penstock.actors.engine.arena import ArenaLink
from penstock.actors.engine.arguments import read_count, read_within
from penstock.actors.engine.config import ClientConfig
from penstock.actors.engine.errors import ProtocolBroken
from penstock.actors.engine.forks import HomeProcess
from penstock.actors.engine.keyspace import KeySpace
from penstock.actors.engine.leases import ReadLease, WriteLease
from penstock.actors.engine.mover import Mover
from penstock.actors.engine.outbox import Lane
from penstock.actors.engine.spec import GroupObjects
from penstock.actors.engine.stream import SessionStream
from penstock.actors.engine.ticket import Role, Ticket
from penstock.protos import engine_pb2
from penstock.protos.engine_pb2 import SessionReply, SessionRequest
from penstock.runtime.deadline import time_left

T = TypeVar("T")
ENVELOPE_BYTES = (
    4096  # what a request takes at most beside its keys: salt, adapter, request id, numbers
)


class Found:
    """What a lookup brought: the ticket, and the name under which a later delta may refer to the prompt."""

    __slots__ = ("is_new", "prompt_id", "ticket")

    def __init__(self, ticket: Ticket, prompt_id: int, *, is_new: bool) -> None:
        self.ticket = ticket
        self.prompt_id = prompt_id
        self.is_new = (
            is_new  # False: the same request was looked up before and its ticket is still held
        )

    def undo(self) -> None:
        """Nobody waits for it any more. A ticket that somebody else holds stays."""
        if self.is_new:
            self.ticket.cancel_nowait()


class AcquiredLease:
    """What an Acquire brought."""

    __slots__ = ("is_new", "lease")

    def __init__(self, lease: ReadLease, *, is_new: bool) -> None:
        self.lease = lease
        self.is_new = is_new  # False: the rank's slot was turned into this lease before

    def undo(self) -> None:
        """Nobody waits for it any more. A lease that somebody else holds stays."""
        if self.is_new:
            self.lease.drop()


class Session:
    """What one Hello and Welcome established."""

    def __init__(
        self,
        stream: SessionStream,
        welcome: engine_pb2.Welcome,
        arena: ArenaLink,
        keyspace: KeySpace,
        *,
        groups: tuple[GroupObjects, ...],
        mover: Mover,
        config: ClientConfig,
    ) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._home = HomeProcess()
        self._tickets: WeakValueDictionary[bytes, Ticket] = WeakValueDictionary()  # not over
        self._leases: WeakValueDictionary[bytes, ReadLease | WriteLease] = (
            WeakValueDictionary()
        )  # not over
        self.config = config
        self.arena = arena
        self.keyspace = keyspace
        self.groups = groups
        self.mover = mover
        self.epoch = welcome.epoch
        self.secret = welcome.session_secret
        self.limits = welcome.limits
        stream.on_progress = self._advance

    @property
    def chunk_tokens(self) -> int:
        return self.keyspace.chunk_tokens

    @property
    def is_open(self) -> bool:
        return self._stream.is_open

    @property
    def chunks_max(self) -> int:
        """Chunks of a prompt that one request can name here."""
        return min(
            self.limits.chunks_max, (self.limits.message_bytes_max - ENVELOPE_BYTES) // KEY_BYTES
        )

    # Reading.

    async def lookup(
        self,
        prompt: engine_pb2.Prompt,
        *,
        total_chunks: int,
        request_id: str,
        readers: int,
        within: float | None,
    ) -> Found:
        """Raises StaleGrant when a delta's base is forgotten; else as `SessionStream.ask`."""
        body = engine_pb2.Lookup(
            prompt=prompt,
            request_id=request_id,
            readers=readers,
            ticket_ms=self.config.ticket_ms,
            load_ms=self.config.load_ms,
            prefill_tokens_per_s=self.config.prefill_tokens_per_s,
        )

        def accept(reply: SessionReply) -> Found:
            found = body_of(reply, "lookup").lookup
            if found.total_chunks != total_chunks:
                if found.ticket:
                    self.end_ticket(found.ticket)
                raise ProtocolBroken(
                    f"the node counts {found.total_chunks} chunks in a prompt of {total_chunks}"
                )
            return self.found(found)

        return await self.ask(SessionRequest(lookup=body), within, accept, Found.undo)

    def found(self, found: engine_pb2.LookupReply) -> Found:
        known = self._tickets.get(found.ticket) if found.ticket else None
        ticket = known or Ticket(
            self, found.ticket, chunk_tokens=self.chunk_tokens, total_chunks=found.total_chunks
        )
        if known is None and found.ticket:
            self._tickets[found.ticket] = ticket
        ticket.advance(
            hit_chunks=found.hit_chunks,
            promised_chunks=found.promised_chunks,
            is_final=found.final,
            shortfall=_shortfall(found.shortfall),
        )
        return Found(ticket, found.prompt_id, is_new=known is None)

    def join(self, ticket: bytes, *, total_chunks: int, hit_chunks: int) -> Ticket:
        """A ticket that another process of the instance looked up. It is theirs to cancel."""
        joined = Ticket(
            self,
            ticket,
            chunk_tokens=self.chunk_tokens,
            total_chunks=total_chunks,
            role=Role.JOINED,
        )
        joined.advance(hit_chunks=hit_chunks, promised_chunks=hit_chunks, is_final=True)
        return joined

    async def acquire(
        self, ticket: bytes, *, rank: int, first_chunk: int, within: float | None
    ) -> AcquiredLease:
        self.arena.require()
        body = engine_pb2.Acquire(
            ticket=ticket,
            rank=read_count("rank", rank),
            first_chunk=read_count("first_chunk", first_chunk),
            lease_ms=self.config.lease_ms,
        )

        def accept(reply: SessionReply) -> AcquiredLease:
            acquired = body_of(reply, "acquired").acquired
            known = self._leases.get(acquired.lease)
            if isinstance(known, ReadLease):
                return AcquiredLease(known, is_new=False)
            try:
                lease = ReadLease(self, acquired, first_chunk=first_chunk)
            except ProtocolBroken:
                self.end_read(acquired.lease, [])
                raise
            self._leases[acquired.lease] = lease
            return AcquiredLease(lease, is_new=True)

        return await self.ask(SessionRequest(acquire=body), within, accept, AcquiredLease.undo)

    async def release(self, lease: bytes, damaged: list[int]) -> bool:
        """Whether the bytes copied under the lease count."""
        request = SessionRequest(release=engine_pb2.Release(lease=lease, damaged=damaged))
        return await self._ask_last(request, lambda reply: body_of(reply, "released").released.ok)

    # Writing.

    async def reserve(
        self, prompt: engine_pb2.Prompt, *, parent: bytes, chunks: int, within: float | None
    ) -> WriteLease:
        self.arena.require()
        body = engine_pb2.Reserve(prompt=prompt, parent=parent, lease_ms=self.config.lease_ms)

        def accept(reply: SessionReply) -> WriteLease:
            reserved = body_of(reply, "reserved").reserved
            try:
                lease = WriteLease(self, reserved, chunks=chunks)
            except ProtocolBroken:
                self.end_write(reserved.lease)
                raise
            if lease.name:
                self._leases[lease.name] = lease
            return lease

        return await self.ask(SessionRequest(reserve=body), within, accept, WriteLease.drop)

    async def commit(
        self,
        lease: bytes,
        *,
        indices: list[int],
        objects: int,
        digests: bytes,
        runs: bytes,
        within: float | None,
    ) -> bytes:
        """One outcome byte for each of `objects`; no indices: all that were granted."""
        body = engine_pb2.Commit(lease=lease, indices=indices, digests=digests, runs=runs)

        def accept(reply: SessionReply) -> bytes:
            outcomes = body_of(reply, "committed").committed.outcomes
            if len(outcomes) != objects:
                raise ProtocolBroken(f"{len(outcomes)} outcomes for {objects} objects")
            return outcomes

        return await self.ask(SessionRequest(commit=body), within, accept)

    # Hints and tools.

    async def prefetch(
        self, prompt: engine_pb2.Prompt, *, pin_ms: int, within: float | None
    ) -> tuple[engine_pb2.Prefetched, Ticket | None]:
        """The reply, and the ticket of the pin, if there is one."""
        body = engine_pb2.Prefetch(prompt=prompt, load_ms=self.config.load_ms, pin_ms=pin_ms)

        def accept(reply: SessionReply) -> tuple[engine_pb2.Prefetched, Ticket | None]:
            prefetched = body_of(reply, "prefetched").prefetched
            return prefetched, self._pinned(prefetched) if prefetched.ticket else None

        return await self.ask(SessionRequest(prefetch=body), within, accept, _unpin)

    def _pinned(self, prefetched: engine_pb2.Prefetched) -> Ticket:
        ticket = Ticket(
            self,
            prefetched.ticket,
            chunk_tokens=self.chunk_tokens,
            total_chunks=prefetched.total_chunks,
            role=Role.PINNED,
        )
        self._tickets[prefetched.ticket] = ticket
        ticket.advance(
            hit_chunks=prefetched.hit_chunks,
            promised_chunks=prefetched.promised_chunks,
            is_final=prefetched.hit_chunks == prefetched.promised_chunks,
        )
        return ticket

    async def touch(self, prompt: engine_pb2.Prompt, *, within: float | None) -> int:
        request = SessionRequest(touch=engine_pb2.Touch(prompt=prompt))
        return await self.ask(
            request, within, lambda reply: body_of(reply, "touched").touched.chunks
        )

    async def wait_stored(self, prompt: engine_pb2.Prompt, *, within: float) -> engine_pb2.Stored:
        """The node answers when the time is over; its answer has a second more to come, or half of what it allows."""
        allowed_ms = self.limits.deadline_ms_max
        spare_ms = min(1000, allowed_ms // 2)
        within_ms = min(int(within * 1000), allowed_ms - spare_ms)
        ask = engine_pb2.WaitStored(prompt=prompt, within_ms=within_ms)
        request = SessionRequest(wait_stored=ask)
        return await self.ask(
            request, (within_ms + spare_ms) / 1000, lambda reply: body_of(reply, "stored").stored
        )

    async def stat(self, *, within: float | None) -> engine_pb2.StatReply:
        request = SessionRequest(stat=engine_pb2.StatRequest())
        return await self.ask(request, within, lambda reply: body_of(reply, "stat").stat)

    async def ask(
        self,
        request: SessionRequest,
        within: float | None,
        accept: Callable[[SessionReply], T],
        undo: Callable[[T], None] | None = None,
    ) -> T:
        given = read_within(within)
        at_most = self.config.request_within_s if given is None else given
        return await self._stream.ask(
            request, within=time_left(at_most=at_most), accept=accept, undo=undo
        )

    async def _ask_last(self, request: SessionRequest, accept: Callable[[SessionReply], T]) -> T:
        return await self._stream.ask(
            request, within=self.config.request_within_s, accept=accept, lane=Lane.LAST_WORD
        )

    # Ends. A last word is sent once for each ticket and lease, by whoever ends it first.

    def end_ticket(self, ticket: bytes) -> None:
        self._tickets.pop(ticket, None)
        self._stream.tell_last_word(SessionRequest(cancel=engine_pb2.Cancel(ticket=ticket)))

    def end_push(self, transfer: bytes) -> None:
        request = SessionRequest(pd_cancel=engine_pb2.PdCancel(transfer=transfer))
        self._stream.tell_last_word(request)

    def end_read(self, lease: bytes, damaged: list[int]) -> None:
        self._leases.pop(lease, None)
        release = engine_pb2.Release(lease=lease, damaged=damaged)
        self._stream.tell_last_word(SessionRequest(release=release))

    def end_write(self, lease: bytes) -> None:
        self._leases.pop(lease, None)
        self._stream.tell_last_word(SessionRequest(abort=engine_pb2.Abort(lease=lease)))

    def end_ticket_threadsafe(self, ticket: bytes) -> None:
        self._call_soon(self.end_ticket, ticket)

    def end_read_threadsafe(self, lease: bytes) -> None:
        self._call_soon(partial(self.end_read, damaged=[]), lease)

    def end_write_threadsafe(self, lease: bytes) -> None:
        self._call_soon(self.end_write, lease)

    def _call_soon(self, end: Callable[[bytes], None], name: bytes) -> None:
        if not self._home.is_here:
            return  # a copy in a forked child has died; the parent's lives
        with suppress(RuntimeError):  # the loop is closed: so is the stream, and all was given up
            self._loop.call_soon_threadsafe(end, name)

    async def close(self, *, within: float) -> None:
        """Give up whatever is still held, wait for running copies to end, and leave in order."""
        for ticket in list(self._tickets.values()):
            ticket.cancel_nowait()
        for lease in list(self._leases.values()):
            lease.drop()
        self.arena.retire()
        await self.arena.wait_unmapped()
        await self._stream.finish(within=within)

    def lose(self) -> None:
        """The stream has ended: tickets are lost; no copy begins any more."""
        self.arena.retire()
        for ticket in list(self._tickets.values()):
            ticket.lose()

    def _advance(self, progress: engine_pb2.Progress) -> None:
        if (ticket := self._tickets.get(progress.ticket)) is not None:
            ticket.advance(
                hit_chunks=progress.hit_chunks,
                promised_chunks=progress.promised_chunks,
                is_final=progress.final,
                shortfall=_shortfall(progress.shortfall),
            )


def body_of(reply: SessionReply, name: str) -> SessionReply:
    if reply.WhichOneof("body") != name:
        raise ProtocolBroken(f"the node answers {reply.WhichOneof('body')} where {name} is due")
    return reply


def _unpin(answer: tuple[engine_pb2.Prefetched, Ticket | None]) -> None:
    """Nobody waits for it any more."""
    if answer[1] is not None:
        answer[1].cancel_nowait()


def _shortfall(number: int) -> Shortfall:
    """A number of a newer node is none that this client knows."""
    return _SHORTFALLS.get(number, Shortfall.NONE)


_SHORTFALLS: dict[int, Shortfall] = {
    engine_pb2.Shortfall.Value(f"SHORTFALL_{one.name}"): one for one in Shortfall
}
