"""What a session's lookups ask of the tiers below L1."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from penstock.actors.api import gateway, l1, l1_loading, prefetch, session
from penstock.actors.api.types import KEY_BYTES, Afterwards, Shape, Shortfall, TicketId
from penstock.actors.core.holdings import Holdings
from penstock.actors.engine_codec import ID_BYTES, SHORTFALLS, check_between, duration_s
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.prompts import Prompts, ResolvedPrompt
from penstock.protos import engine_pb2
from penstock.runtime.errors import ActorCrashed, ActorStopped, MailboxFull
from penstock.runtime.message import NOT_AT_ONCE
from penstock.runtime.ref import Ref

NO_TICKET = TicketId(b"")
READERS_MAX = 128


@dataclass(frozen=True, slots=True)
class Pace:
    """How long loads may take, how long their ticket lives, and how fast the engine computes instead."""

    load_s: float
    ticket_s: float
    prefill_tokens_per_s: int  # 0: unknown


@dataclass(frozen=True, slots=True)
class SessionLoads:
    """Of one session. `ref` is whom L1 promises in the name of."""

    ref: Ref[prefetch.Prefetcher]
    manager: Ref[l1.L1Manager]
    attached: session.Attached
    shape: Shape
    chunk_tokens: int

    async def fetch(
        self, hit: l1.Hit, prompt: ResolvedPrompt, pace: Pace, afterwards: Afterwards
    ) -> l1.Hit:
        """Have fetched what L1 has promised for `hit`; a prefetcher that takes no more is spoken for.

        What is at hand has come already, and is told in the place of `hit`.
        """
        want = prefetch.Fetch(
            ticket=hit.ticket,
            session=self.attached.session,
            instance=self.attached.instance,
            shape=self.shape,
            keys=prompt.keys,
            salt=prompt.salt,
            hit_chunks=hit.hit_chunks,
            load_s=min(pace.load_s, pace.ticket_s),
            ticket_s=pace.ticket_s,
            chunk_tokens=self.chunk_tokens,
            prefill_tokens_per_s=pace.prefill_tokens_per_s,
            afterwards=afterwards,
        )
        try:
            finished = self.ref.ask_now(prefetch.FetchNow(want))
            if finished is NOT_AT_ONCE:
                self.ref.tell_nowait(want)
        except (MailboxFull, ActorStopped, ActorCrashed):
            await self.manager.ask(l1_loading.Settle(hit.ticket, Shortfall.BUSY))
            return hit
        if finished is NOT_AT_ONCE or finished is None:
            return hit
        ticket = hit.ticket if finished.promised_chunks else NO_TICKET
        return l1.Hit(ticket, finished.hit_chunks, finished.promised_chunks)


class Prefetching:
    """The request Prefetch of one session: a lookup without readers, or the hint that it always was."""

    def __init__(
        self,
        attached: session.Attached,
        prompts: Prompts,
        holdings: Holdings,
        limits: GatewayLimits,
        *,
        manager: Ref[l1.L1Manager],
        watcher: Ref[gateway.Gateway],
        loads: SessionLoads | None,
    ) -> None:
        self._attached = attached
        self._prompts = prompts
        self._holdings = holdings
        self._limits = limits
        self._l1 = manager
        self._watcher = watcher
        self._loads = loads

    async def prefetch(self, msg: engine_pb2.Prefetch, reply: engine_pb2.SessionReply) -> None:
        load_s = load_duration_s("prefetch.load_ms", msg.load_ms, self._limits)
        check_between("prefetch.pin_ms", msg.pin_ms, 0, self._limits.lease_ms_max)
        prompt = await self._prompts.resolve(msg.prompt)
        if msg.pin_ms:
            hit = await self._pin(prompt, load_s, msg.pin_ms / 1000)
            reply.prefetched.ticket = hit.ticket
        elif self._loads is not None:
            hit = await self._load(prompt, load_s, self._loads)
        else:
            hit = await self._l1.ask(l1.Promise(prompt.keys, self._attached.geometry))
        reply.prefetched.total_chunks = len(prompt.keys) // KEY_BYTES
        reply.prefetched.hit_chunks = hit.hit_chunks
        reply.prefetched.promised_chunks = hit.promised_chunks

    async def _pin(self, prompt: ResolvedPrompt, load_s: float, pin_s: float) -> l1.Hit:
        """The ticket is the session's: it counts, is told of, and can be cancelled."""
        now, ticket = asyncio.get_running_loop().time(), TicketId(os.urandom(ID_BYTES))
        self._holdings.check_ticket_room(now)
        self._holdings.add_ticket(
            ticket, now + pin_s, "", b""
        )  # closed with the stream, if given up now
        hit = await self._look_up(ticket, prompt, pin_s, Afterwards.KEEP)
        if hit.is_hoped and self._loads is not None:
            pace = Pace(load_s, pin_s, 0)
            hit = await self._loads.fetch(hit, prompt, pace, Afterwards.KEEP)
        if not hit.ticket:
            self._holdings.drop_ticket(ticket)
        return hit

    async def _load(self, prompt: ResolvedPrompt, load_s: float, loads: SessionLoads) -> l1.Hit:
        """The ticket lasts as long as the loads, and nobody hears of it."""
        ticket = TicketId(os.urandom(ID_BYTES))
        hit = await self._look_up(ticket, prompt, load_s, Afterwards.CLOSE)
        if hit.is_hoped:
            await loads.fetch(hit, prompt, Pace(load_s, load_s, 0), Afterwards.CLOSE)
        elif hit.ticket:
            mine = self._attached
            await self._l1.ask(l1.CloseTickets((ticket,), mine.instance, mine.session))
        return hit

    async def _look_up(
        self, ticket: TicketId, prompt: ResolvedPrompt, ticket_s: float, afterwards: Afterwards
    ) -> l1.Hit:
        return await self._l1.ask(
            l1.Lookup(
                ticket,
                prompt.keys,
                self._attached.geometry,
                self._attached.session,
                self._attached.instance,
                1,
                ticket_s,
                self._watcher,
                None if self._loads is None else self._loads.ref,
                afterwards,
            )
        )


def say_hit(
    reply: engine_pb2.LookupReply, hit: l1.Hit, prompt: ResolvedPrompt, prompts: Prompts
) -> None:
    """Fill in what a lookup came to; the prompt is remembered for deltas."""
    reply.ticket = hit.ticket
    reply.prompt_id = prompts.remember(prompt)
    reply.total_chunks = len(prompt.keys) // KEY_BYTES
    reply.hit_chunks = hit.hit_chunks
    reply.promised_chunks = hit.promised_chunks
    reply.final = hit.final
    if hit.shortfall is not Shortfall.NONE:
        reply.shortfall = SHORTFALLS[hit.shortfall]


def load_duration_s(field: str, milliseconds: int, limits: GatewayLimits) -> float:
    """How long loads may take. Raises InvalidField."""
    return duration_s(
        field, milliseconds, default_ms=limits.load_ms_default, max_ms=limits.deadline_ms_max
    )
