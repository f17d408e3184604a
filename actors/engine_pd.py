"""What each request of an engine stream about pushes does: a prefill engine has a prompt pushed to another node, a
decode engine expects one. Handlers as those of `engine_requests`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from penstock.actors.api import gateway, l1, l1_loading, pd, session
from penstock.actors.api.errors import InvalidField, MovesNoBytes, NoPushes, TicketOver
from penstock.actors.api.pd_wire import CHUNKS_MAX, PRIORITY_MAX, Reason, TransferId
from penstock.actors.api.types import (
    KEY_BYTES,
    REQUEST_ID_CHARS_MAX,
    LeaseId,
    Pool,
    Shape,
    Shortfall,
    TicketId,
)
from penstock.actors.core.holdings import Holdings
from penstock.actors.engine_codec import ID_BYTES, check_between, check_id, duration_s
from penstock.actors.engine_loads import READERS_MAX, say_hit
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.prompts import Prompts, ResolvedPrompt
from penstock.protos import engine_pb2, pd_pb2
from penstock.runtime.errors import (
    ActorStopped,
    CallerError,
    CapacityError,
    MailboxFull,
    PenstockError,
)
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

Later = Coroutine[Any, Any, None]
Handler = Callable[[Any, engine_pb2.SessionReply], Awaitable[Later | None]]

TARGET_CHARS_MAX = 63
EXPECTED = (
    "\udc00"  # before the request id of an expected prompt: no request id on the wire begins so
)
_STATES = {one: engine_pb2.PdSentState.Value(f"PD_SENT_STATE_{one.name}") for one in pd.SentState}
_REASONS = {one: pd_pb2.PdReason.Value(f"PD_REASON_{one.name}") for one in Reason}


@dataclass(frozen=True, slots=True)
class Pushes:
    """Whom the requests ask, at a node with `cluster.pd`."""

    sender: Ref[pd.PdSender]
    receiver: Ref[pd.PdReceiver] | None  # None: `cluster.pd.receive` is 0
    transfer_s: float  # how long a push may take, unless it says so


@dataclass(frozen=True, slots=True)
class Asker:
    """The session that asks, and what its requests are about."""

    attached: session.Attached
    slots: tuple[int, ...]  # that it writes
    shape: Shape
    chunk_tokens: int
    prompts: Prompts
    holdings: Holdings
    limits: GatewayLimits


class PushRequests:
    """The requests of one attached session."""

    def __init__(
        self,
        asker: Asker,
        pushes: Pushes | None,
        *,
        manager: Ref[l1.L1Manager],
        watcher: Ref[gateway.Gateway],
    ) -> None:
        """`pushes`: None at a node without `cluster.pd`, which refuses them all."""
        self._asker = asker
        self._pushes = pushes
        self._l1 = manager
        self._watcher = watcher
        self._has_sent = False
        self._is_checked = False  # the receive budget holds the longest prompt of this shape
        self.handlers: dict[str, Handler] = {
            "pd_send": self._send,
            "pd_wait": self._wait,
            "pd_cancel": self._cancel,
            "pd_expect": self._expect,
            "pd_layers": self._layers,
        }

    async def end(self, within_s: float) -> None:
        """The stream is over: nobody asks for its pushes any more. At once, where that can be. Never raises."""
        if not self._has_sent or self._pushes is None:
            return
        over = pd.SessionOver(self._asker.attached.session)
        try:
            try:
                self._pushes.sender.tell_nowait(over)
            except MailboxFull:
                await self._pushes.sender.tell(over, within=within_s)
        except PenstockError as error:  # pushes end by their time
            Log("gateway").warning("pushes_not_told", session=over.session, error=str(error))

    # Sending.

    async def _send(self, msg: engine_pb2.PdSend, reply: engine_pb2.SessionReply) -> None:
        pushes, asker = self._required(), self._asker
        if not asker.slots:
            raise MovesNoBytes(
                "this session declared no shard of its own (Hello.own_shards), or is not on this"
                " machine: it has nothing to push"
            )
        _check_request_id("pd_send.request_id", msg.request_id)
        if not 1 <= len(msg.target) <= TARGET_CHARS_MAX:
            raise InvalidField("pd_send.target", f"a node id of 1 to {TARGET_CHARS_MAX} characters")
        check_between("pd_send.priority", msg.priority, 0, PRIORITY_MAX)
        within_s = self._transfer_s("pd_send.within_ms", msg.within_ms, pushes)
        prompt = await asker.prompts.resolve(msg.prompt)
        _check_length("pd_send.prompt", prompt, chunks_min=1)
        send = pd.Send(
            request_id=msg.request_id,
            target=msg.target,
            shape=asker.shape,
            keys=prompt.keys,
            slots=asker.slots,
            session=asker.attached.session,
            within_s=within_s,
            priority=msg.priority,
        )
        self._has_sent = True
        transfer = await pushes.sender.ask(send)
        reply.pd_send.transfer = transfer

    async def _wait(self, msg: engine_pb2.PdWait, reply: engine_pb2.SessionReply) -> Later:
        pushes = self._required()
        transfer = TransferId(check_id("pd_wait.transfer", msg.transfer))
        session_ = self._asker.attached.session
        wait = pd.WaitSent(transfer, session_, msg.within_ms / 1000)
        return _say_sent(pushes.sender, wait, reply.pd_wait)

    async def _cancel(self, msg: engine_pb2.PdCancel, reply: engine_pb2.SessionReply) -> None:
        pushes = self._required()
        transfer = TransferId(check_id("pd_cancel.transfer", msg.transfer))
        cancel = pd.Cancel(transfer, self._asker.attached.session)
        reply.pd_cancel.ok = await pushes.sender.ask(cancel)

    async def _layers(self, msg: engine_pb2.PdLayers, reply: engine_pb2.SessionReply) -> None:
        """In its turn, not beside the reader: a commit that comes after it finds it done."""
        pushes = self._required()
        layers = pd.Layers(
            transfer=TransferId(check_id("pd_layers.transfer", msg.transfer)),
            session=self._asker.attached.session,
            lease=LeaseId(check_id("pd_layers.lease", msg.lease)),
            indices=tuple(msg.indices),
            first_run=msg.first_run,
            digests=msg.digests,
        )
        reply.pd_layers.runs = await pushes.sender.ask(layers)

    # Receiving.

    async def _expect(self, msg: engine_pb2.PdExpect, reply: engine_pb2.SessionReply) -> None:
        pushes, asker = self._required(), self._asker
        if (receiver := pushes.receiver) is None:
            raise NoPushes(
                "cluster.pd.receive is 0 at this node, so it only sends: give it room for what is"
                " pushed to it, and start it anew"
            )
        _check_request_id("pd_expect.request_id", msg.request_id)
        check_between("pd_expect.readers", msg.readers, 1, READERS_MAX)
        limits = asker.limits
        ticket_s = duration_s(
            "pd_expect.ticket_ms",
            msg.ticket_ms,
            default_ms=limits.lease_ms_default,
            max_ms=limits.lease_ms_max,
        )
        within_s = self._transfer_s("pd_expect.within_ms", msg.within_ms, pushes)
        if not self._is_checked:
            await receiver.ask(pd.CheckPrompt(asker.shape, asker.chunk_tokens))
            self._is_checked = True
        prompt = await asker.prompts.resolve(msg.prompt)
        _check_length("pd_expect.prompt", prompt, chunks_min=0)
        hit = await self._look_again(msg.request_id, prompt)
        if hit is None:
            hit = await self._look_up(msg, prompt, ticket_s, receiver)
            if hit.is_hoped:
                expect = pd.Expect(
                    request_id=msg.request_id,
                    ticket=hit.ticket,
                    session=asker.attached.session,
                    instance=asker.attached.instance,
                    shape=asker.shape,
                    keys=prompt.keys,
                    hit_chunks=hit.hit_chunks,
                    within_s=min(within_s, ticket_s),
                    ticket_s=ticket_s,
                )
                await self._tell(receiver, expect)
        say_hit(reply.lookup, hit, prompt, asker.prompts)

    async def _look_again(self, request_id: str, prompt: ResolvedPrompt) -> l1.Hit | None:
        """The same request again has its ticket; with another prompt it is another one."""
        asker = self._asker
        known = asker.holdings.request(EXPECTED + request_id, _now())
        if known is None:
            return None
        if known.prompt == sha256(prompt.keys).digest():
            again = l1.LookAgain(known.ticket, prompt.keys, asker.attached.geometry)
            try:
                return await self._l1.ask(again)
            except TicketOver:  # another process of the instance has cancelled it
                asker.holdings.drop_ticket(known.ticket)
                return None
        mine = asker.attached
        await self._l1.ask(l1.CloseTickets((known.ticket,), mine.instance, mine.session))
        asker.holdings.drop_ticket(known.ticket)
        return None

    async def _look_up(
        self,
        msg: engine_pb2.PdExpect,
        prompt: ResolvedPrompt,
        ticket_s: float,
        receiver: Ref[pd.PdReceiver],
    ) -> l1.Hit:
        """The ticket counts from before it is opened: should this be given up, it is closed with the stream."""
        holdings, mine, now = self._asker.holdings, self._asker.attached, _now()
        holdings.check_ticket_room(now)
        ticket = TicketId(os.urandom(ID_BYTES))
        name = sha256(prompt.keys).digest()
        holdings.add_ticket(ticket, now + ticket_s, EXPECTED + msg.request_id, name)
        lookup = l1.Lookup(
            ticket,
            prompt.keys,
            mine.geometry,
            mine.session,
            mine.instance,
            msg.readers,
            ticket_s,
            self._watcher,
            receiver,
            pool=Pool.PD,
        )
        try:
            hit = await self._l1.ask(lookup)
        except (CallerError, CapacityError):  # refused: there is none
            holdings.drop_ticket(ticket)
            raise
        if not hit.ticket:
            holdings.drop_ticket(ticket)
        return hit

    async def _tell(self, receiver: Ref[pd.PdReceiver], expect: pd.Expect) -> None:
        """L1 has promised the prompt in the receiver's name; one that takes no more is spoken for."""
        try:
            receiver.tell_nowait(expect)
        except (MailboxFull, ActorStopped):
            await self._l1.ask(l1_loading.Settle(expect.ticket, Shortfall.BUSY))

    # Checks.

    def _required(self) -> Pushes:
        if self._pushes is None:
            raise NoPushes(
                "this node neither pushes prompts nor takes them in: give its configuration"
                " `cluster` with `pd`, and start it anew"
            )
        return self._pushes

    def _transfer_s(self, field: str, milliseconds: int, pushes: Pushes) -> float:
        return duration_s(
            field,
            milliseconds,
            default_ms=round(pushes.transfer_s * 1000),
            max_ms=self._asker.limits.deadline_ms_max,
        )


async def _say_sent(sender: Ref[pd.PdSender], wait: pd.WaitSent, reply: engine_pb2.PdSent) -> None:
    """Beside the reader: fill in what has come of it."""
    sent = await sender.ask(wait)
    reply.state = _STATES[sent.state]
    if sent.reason is not None:
        reply.reason = _REASONS[sent.reason]
    reply.bytes, reply.held_bytes, reply.text = sent.bytes, sent.held_bytes, sent.text
    reply.early_bytes = sent.early_bytes


def _check_request_id(field: str, request_id: str) -> None:
    if not 1 <= len(request_id) <= REQUEST_ID_CHARS_MAX:
        raise InvalidField(field, f"1 to {REQUEST_ID_CHARS_MAX} characters")


def _check_length(field: str, prompt: ResolvedPrompt, *, chunks_min: int) -> None:
    chunks = len(prompt.keys) // KEY_BYTES
    if not chunks_min <= chunks <= CHUNKS_MAX:
        raise InvalidField(field, f"{chunks} whole chunks: send {chunks_min} to {CHUNKS_MAX}")


def _now() -> float:
    return asyncio.get_running_loop().time()
