"""What each request of an engine stream does: checks, one or two asks, a reply.

A handler fills the reply in. It may return the rest of its work as a coroutine, to be carried on beside the reader;
everything else must not wait for anything but L1, which never waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from anyio.lowlevel import checkpoint

from penstock.actors.api import eviction, gateway, l1, prefetch, session, writer
from penstock.actors.api.errors import InvalidField, MovesNoBytes, TicketOver
from penstock.actors.api.types import (
    EXTENT_BYTES,
    KEY_BYTES,
    REQUEST_ID_CHARS_MAX,
    Afterwards,
    LeaseId,
    TicketId,
)
from penstock.actors.core.holdings import Holdings
from penstock.actors.engine_codec import (
    ID_BYTES,
    check_between,
    check_id,
    check_indices,
    duration_s,
)
from penstock.actors.engine_commits import commit_in_parts
from penstock.actors.engine_loads import (
    READERS_MAX,
    Pace,
    Prefetching,
    SessionLoads,
    load_duration_s,
    say_hit,
)
from penstock.actors.engine_saves import say_stored
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.prompts import Prompts, ResolvedPrompt
from penstock.actors.stat_codec import stat_reply
from penstock.actors.wire_scan import UNSCANNED_BYTES_MAX
from penstock.protos import engine_pb2
from penstock.runtime.errors import ActorStopped, MailboxFull
from penstock.runtime.ref import Ref

Later = Coroutine[Any, Any, None]
Handler = Callable[[Any, engine_pb2.SessionReply], Awaitable[Later | None]]

READY_OBJECTS_A_STEP = 512  # of a reservation: at most two page faults each
NO_TICKET = TicketId(bytes(ID_BYTES))
_OK = bytes([0])  # the outcome of an object that is resident
_GRANTED = bytes([engine_pb2.ANSWER_GRANTED])


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Whom a session's requests ask, and who is told of moving tickets."""

    own: Ref[gateway.Gateway]
    l1: Ref[l1.L1Manager]
    sessions: Ref[session.Sessions]
    eviction_controller: Ref[eviction.EvictionController]
    prefetcher: Ref[prefetch.Prefetcher] | None = None  # None: there is nothing below L1
    writer: Ref[writer.StoreWriter] | None = None  # the same


class EngineRequests:
    """The requests of one attached session, and what it holds."""

    def __init__(
        self,
        attached: session.Attached,
        slots: tuple[int, ...],
        prompts: Prompts,
        neighbours: Neighbours,
        limits: GatewayLimits,
        *,
        epoch: bytes,
        fits: bool = True,
        loads: SessionLoads | None = None,
    ) -> None:
        """`loads`: None when there is nothing below L1. `fits`: one chunk's objects are not larger than the arena.
        Otherwise no eviction makes room for them."""
        self._attached = attached
        self.slots = slots
        self._fits = fits
        self._loads = loads
        self.prompts = prompts
        self._to = neighbours
        self._limits = limits
        self._epoch = epoch
        self._asked_for = NO_TICKET  # by the last lookup, whose answer may never have been heard
        self.holdings = Holdings(leases_max=limits.leases_max, tickets_max=limits.tickets_max)
        self._prefetching = Prefetching(
            attached,
            prompts,
            self.holdings,
            limits,
            manager=neighbours.l1,
            loads=loads,
            watcher=neighbours.own,
        )
        self.handlers: dict[str, Handler] = {
            "lookup": self._lookup,
            "acquire": self._acquire,
            "release": self._release,
            "reserve": self._reserve,
            "commit": self._commit,
            "abort": self._abort,
            "cancel": self._cancel,
            "prefetch": self._prefetching.prefetch,
            "touch": self._touch,
            "stat": self._stat,
            "wait_stored": self._wait_stored,
        }

    def tickets(self) -> tuple[TicketId, ...]:
        """Those it opened, or may have: closed when the stream is over, since nobody can be told of them any more."""
        return (*self.holdings.tickets(), self._asked_for)

    # Reading.

    async def _lookup(self, msg: engine_pb2.Lookup, reply: engine_pb2.SessionReply) -> None:
        check_between("lookup.readers", msg.readers, 1, READERS_MAX)
        if len(msg.request_id) > REQUEST_ID_CHARS_MAX:
            raise InvalidField("lookup.request_id", f"at most {REQUEST_ID_CHARS_MAX} characters")
        ticket_s = self._duration("lookup.ticket_ms", msg.ticket_ms)
        load_s = load_duration_s("lookup.load_ms", msg.load_ms, self._limits)
        prompt = await self.prompts.resolve(msg.prompt)
        now = _now()
        name = sha256(prompt.keys).digest() if msg.request_id else b""
        if msg.request_id and (known := self.holdings.request(msg.request_id, now)) is not None:
            # The same request again: an engine asks until it starts. With other tokens it is another request.
            if known.prompt == name and await self._look_again(known.ticket, prompt, reply):
                return
            await self._close(known.ticket)
        self.holdings.check_ticket_room(now)
        self._asked_for = TicketId(os.urandom(ID_BYTES))
        hit = await self._to.l1.ask(
            l1.Lookup(
                self._asked_for,
                prompt.keys,
                self._attached.geometry,
                self._attached.session,
                self._attached.instance,
                msg.readers,
                ticket_s,
                self._to.own,
                None if self._loads is None else self._loads.ref,
            )
        )
        if hit.ticket:
            self.holdings.add_ticket(hit.ticket, now + ticket_s, msg.request_id, name)
        if hit.is_hoped and self._loads is not None:
            pace = Pace(load_s, ticket_s, msg.prefill_tokens_per_s)
            hit = await self._loads.fetch(hit, prompt, pace, Afterwards.KEEP)
            if not hit.ticket:
                self.holdings.drop_ticket(self._asked_for)
        say_hit(reply.lookup, hit, prompt, self.prompts)

    async def _look_again(
        self, ticket: TicketId, prompt: ResolvedPrompt, reply: engine_pb2.SessionReply
    ) -> bool:
        """False: another process of the instance has cancelled the ticket meanwhile."""
        again = l1.LookAgain(ticket, prompt.keys, self._attached.geometry)
        try:
            hit = await self._to.l1.ask(again)
        except TicketOver:
            return False
        say_hit(reply.lookup, hit, prompt, self.prompts)
        return True

    async def _acquire(self, msg: engine_pb2.Acquire, reply: engine_pb2.SessionReply) -> None:
        self._check_moves_bytes()
        ticket = TicketId(check_id("acquire.ticket", msg.ticket))
        check_between("acquire.rank", msg.rank, 0, READERS_MAX - 1)
        lease_s = self._duration("acquire.lease_ms", msg.lease_ms)
        now = _now()
        self.holdings.check_lease_room(now)
        lease = await self._to.l1.ask(
            l1.Acquire(
                ticket, self._attached.session, msg.rank, self.slots, msg.first_chunk, lease_s
            )
        )
        self.holdings.add_lease(lease.lease, now + lease_s)
        reply.acquired.lease = lease.lease
        reply.acquired.chunks = lease.chunks
        reply.acquired.extents = lease.extents.packed
        reply.acquired.lease_ms = int(lease.lease_s * 1000)

    async def _release(self, msg: engine_pb2.Release, reply: engine_pb2.SessionReply) -> None:
        lease = LeaseId(check_id("release.lease", msg.lease))
        damaged = check_indices("release.damaged", msg.damaged, count_max=self._objects_max)
        is_ok = await self._to.l1.ask(l1.Release(lease, self._attached.session, damaged))
        if is_ok:  # what is stale counts until it expires: it may be a lease that no release ends
            self.holdings.drop_lease(lease)
        reply.released.ok = is_ok

    async def _cancel(self, msg: engine_pb2.Cancel, reply: engine_pb2.SessionReply) -> None:
        reply.cancelled.ok = await self._close(TicketId(check_id("cancel.ticket", msg.ticket)))

    async def _close(self, ticket: TicketId) -> bool:
        closed = await self._to.l1.ask(
            l1.CloseTickets((ticket,), self._attached.instance, self._attached.session)
        )
        self.holdings.drop_ticket(ticket)
        return closed.tickets == 1

    # Writing.

    async def _reserve(
        self, msg: engine_pb2.Reserve, reply: engine_pb2.SessionReply
    ) -> Later | None:
        self._check_moves_bytes()
        lease_s = self._duration("reserve.lease_ms", msg.lease_ms)
        prompt = await self.prompts.resolve(msg.prompt)
        if msg.parent and not msg.prompt.HasField("keys"):
            raise InvalidField("reserve.parent", "only with packed keys: other forms know it")
        parent = msg.parent or prompt.parent
        if parent and len(parent) != KEY_BYTES:
            raise InvalidField("reserve.parent", f"a key has {KEY_BYTES} bytes, not {len(parent)}")
        self.holdings.check_lease_room(_now())
        want = l1.Reserve(
            prompt.keys,
            parent,
            self._attached.geometry,
            self.slots,
            prompt.salt,
            self._attached.session,
            lease_s,
        )
        lease = await self._ask_reserve(want)
        is_refused = bool(_room_for(want, lease).bytes_wanted and self._fits)
        if is_refused and not lease.lease:
            self.holdings.claim_lease()
            return self._reserve_after_eviction(want, lease, reply)
        if is_refused:
            return self._reserve_rest(want, lease, reply)
        if len(lease.answers) > READY_OBJECTS_A_STEP:
            await checkpoint()  # the table's work was a step of its own, the reply's is another
        _say_reserved(reply.reserved, lease)
        return None

    async def _reserve_after_eviction(
        self, want: l1.Reserve, refused: l1.WriteLease, reply: engine_pb2.SessionReply
    ) -> None:
        """There was no room at all: wake eviction, and ask once more."""
        try:
            freed = await self._to.eviction_controller.ask(_room_for(want, refused))
            lease = await self._ask_reserve(want) if freed else refused
        finally:
            self.holdings.unclaim_lease()
        _say_reserved(reply.reserved, lease)

    async def _reserve_rest(
        self, want: l1.Reserve, first: l1.WriteLease, reply: engine_pb2.SessionReply
    ) -> None:
        """There was room for some: keep it, wake eviction, and ask for all of it in the place of that.

        The table gives back and grants in one step, so that nobody takes in between what the caller had.
        """
        lease = None
        try:
            freed = await self._to.eviction_controller.ask(_room_for(want, first))
            if freed:
                self.holdings.drop_lease(first.lease)
                lease = await self._ask_reserve(replace(want, instead_of=first.lease))
            else:
                lease = first
        finally:
            if lease is None:  # the caller never hears of the first; should this fail, it expires
                self.holdings.drop_lease(first.lease)
                with suppress(MailboxFull, ActorStopped):
                    self._to.l1.tell_nowait(l1.GiveBack(first.lease, self._attached.session))
        _say_reserved(reply.reserved, lease)

    async def _ask_reserve(self, want: l1.Reserve) -> l1.WriteLease:
        await self._make_ready(want)
        now = _now()
        lease = await self._to.l1.ask(want)
        if lease.lease:
            granted = lease.answers.count(_GRANTED)
            self.holdings.add_lease(lease.lease, now + want.lease_s, objects=granted)
        return lease

    async def _make_ready(self, want: l1.Reserve) -> None:
        """A long prompt's reservation is one step, since nobody may take room in its midst; but the memory that it
        writes is backed before, in steps of its own: page faults are most of what a first reservation costs.
        """
        step_bytes = max(1, READY_OBJECTS_A_STEP // len(want.slots)) * KEY_BYTES
        if len(want.keys) <= step_bytes:
            return
        for start in range(0, len(want.keys), step_bytes):
            part = want.keys[start : start + step_bytes]
            await self._to.l1.ask(l1.MakeReady(part, want.geometry, want.slots, start // KEY_BYTES))
            await checkpoint()

    async def _commit(self, msg: engine_pb2.Commit, reply: engine_pb2.SessionReply) -> None:
        lease = LeaseId(check_id("commit.lease", msg.lease))
        indices = check_indices("commit.indices", msg.indices, count_max=self._objects_max)
        digests, runs = msg.digests, msg.runs
        for field, packed in (("commit.digests", digests), ("commit.runs", runs)):
            if len(packed) % 8:
                raise InvalidField(field, f"{len(packed)} bytes are no packed u64 digests")
        if len(runs) > UNSCANNED_BYTES_MAX:
            await checkpoint()  # taking them out of the message has copied them
        commit = l1.Commit(lease, self._attached.session, indices, digests, runs)
        done = await commit_in_parts(self._to.l1, commit)
        self.holdings.drop_objects(lease, done.outcomes.count(_OK))
        reply.committed.outcomes = done.outcomes
        reply.committed.backlog_bytes = done.backlog_bytes

    async def _abort(self, msg: engine_pb2.Abort, reply: engine_pb2.SessionReply) -> None:
        lease = LeaseId(check_id("abort.lease", msg.lease))
        is_ok = await self._to.l1.ask(l1.Abort(lease, self._attached.session))
        if is_ok:
            self.holdings.drop_lease(lease)
        reply.aborted.ok = is_ok

    # Hints and numbers.

    async def _touch(self, msg: engine_pb2.Touch, reply: engine_pb2.SessionReply) -> None:
        prompt = await self.prompts.resolve(msg.prompt)
        reply.touched.chunks = await self._to.l1.ask(l1.Touch(prompt.keys))

    async def _wait_stored(
        self, msg: engine_pb2.WaitStored, reply: engine_pb2.SessionReply
    ) -> Later | None:
        prompt = await self.prompts.resolve(msg.prompt)
        reply.stored.SetInParent()
        if self._to.writer is None:
            return None
        geometry, within_s = self._attached.geometry, msg.within_ms / 1000
        ask = writer.WaitStored(prompt.keys, geometry, self.slots, within_s)
        return say_stored(self._to.writer, ask, reply.stored)

    async def _stat(self, _: engine_pb2.StatRequest, reply: engine_pb2.SessionReply) -> Later:
        return self._measure(reply)

    async def _measure(self, reply: engine_pb2.SessionReply) -> None:
        """Beside the reader: two actors are asked, and the session keeper may be at work."""
        usage = await self._to.l1.ask(l1.Measure())
        sessions = await self._to.sessions.ask(session.Count())
        reply.stat.CopyFrom(stat_reply(self._epoch, usage, sessions))

    # Checks.

    @property
    def _objects_max(self) -> int:
        return self._limits.chunks_max * max(1, len(self.slots))

    def _duration(self, field: str, milliseconds: int) -> float:
        return duration_s(
            field,
            milliseconds,
            default_ms=self._limits.lease_ms_default,
            max_ms=self._limits.lease_ms_max,
        )

    def _check_moves_bytes(self) -> None:
        if not self.slots:
            raise MovesNoBytes(
                "this session declared no shard of its own (Hello.own_shards), or is not on this"
                " machine: it can look up, but neither read nor write objects"
            )


def _room_for(want: l1.Reserve, refused: l1.WriteLease) -> eviction.MakeRoom:
    own = refused.own_bytes_missing
    return eviction.MakeRoom(own or refused.bytes_missing, want.salt if own else None)


def _say_reserved(reply: engine_pb2.Reserved, lease: l1.WriteLease) -> None:
    assert len(lease.answers) * EXTENT_BYTES == len(lease.extents.packed)
    reply.lease = lease.lease
    reply.answers = lease.answers
    reply.extents = lease.extents.packed
    reply.lease_ms = int(lease.lease_s * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()
