"""A push of a prompt to another node, as the engine sees it that computes the prompt; and what it asks its node."""

from __future__ import annotations

from collections.abc import Generator

from penstock.actors.api.pd import LAYER_RUNS_MAX, Sent, SentState
from penstock.actors.api.pd_wire import Reason
from penstock.actors.engine.arguments import read_count, read_instance
from penstock.actors.engine.errors import EXCUSED, ProtocolBroken
from penstock.actors.engine.leases import WriteLease
from penstock.actors.engine.session import Found, Session, body_of
from penstock.protos import engine_pb2, pd_pb2
from penstock.protos.engine_pb2 import SessionReply, SessionRequest
from penstock.runtime.deadline import time_left
from penstock.runtime.errors import DeadlineExceeded

TRANSFER_BYTES = 16
NOTHING = Sent(SentState.COMMITTED, None, 0, 0)  # a prompt without a whole chunk
WAIT_S = 10.0  # one request of those that wait for the end

_STATES = {engine_pb2.PdSentState.Value(f"PD_SENT_STATE_{one.name}"): one for one in SentState}
_REASONS = {pd_pb2.PdReason.Value(f"PD_REASON_{one.name}"): one for one in Reason}


class PdTransfer:
    """One push under way, or over. Made by `Client.pd_send`; goes on when nobody refers to it any more.

    PENDING --the receiver has verified all of it--> COMMITTED
       '------- it ended before that, or its outcome is not known any more --> FAILED

    Awaitable, any number of times: gives what it came to, once it is over, which is within the time that it was given;
    PENDING only when a deadline around the wait has passed. Belongs to the client's event loop.
    """

    def __init__(self, session: Session | None, transfer: bytes, newest: Sent) -> None:
        self._session = session
        self._transfer = transfer  # 16 bytes; empty: nothing is under way
        self._newest = newest

    def __repr__(self) -> str:
        return f"<PdTransfer {self._newest.state.name.lower()}>"

    @property
    def sent(self) -> Sent:
        """What it has come to, as far as this process has been told."""
        return self._newest

    @property
    def is_over(self) -> bool:
        """Whether it is known to be committed or failed."""
        return self._newest.state is not SentState.PENDING

    async def wait(self, *, within: float) -> Sent:
        """What it has come to, once it is over or `within` seconds have passed: then PENDING.

        Never raises: when the node does not tell any more, it is FAILED without a reason, and `text` says why."""
        if self.is_over or self._session is None:
            return self._newest
        try:
            self._newest = await _ask_sent(self._session, self._transfer, within=within)
        except DeadlineExceeded:
            pass  # PENDING, as far as anybody here knows
        except EXCUSED as error:
            self._newest = failed(f"its outcome is not known: {error}")
        return self._newest

    async def _over(self) -> Sent:
        while not self.is_over and (left_s := time_left(at_most=WAIT_S)) > 0:
            await self.wait(within=left_s)
        return self._newest

    def __await__(self) -> Generator[object, None, Sent]:
        return self._over().__await__()

    async def layers(
        self, lease: WriteLease, first_layer: int, count: int = 1, *, within: float | None = None
    ) -> int:
        """Have layers pushed that were copied under a lease of `Client.reserve`, before they are committed: the blocks,
        and what was copied of them, must not change any more.

        Gives how many (layer, component) runs will be; the others are pushed when they are committed, as all are that
        nobody tells of. 0 also when the push is over, or the node is away, late or full. What is committed must be what
        was pushed: else the push fails. `within`: seconds; None: `request_within_s` for each request to the node.

        Raises InvalidField for no such lease or layers; and CallerError for whatever else can never succeed.
        """
        read_instance("lease", lease, WriteLease, what="what `reserve` brought")
        first = read_count("first_layer", first_layer)
        layers = range(first, first + read_count("count", count))
        taken = 0
        for part in lease.written(layers, runs_max=LAYER_RUNS_MAX):
            session = self._session
            if self.is_over or session is None or lease.is_ending:
                break
            body = engine_pb2.PdLayers(
                transfer=self._transfer,
                lease=lease.name,
                indices=part.indices,
                first_run=part.first_run,
                digests=part.digests,
            )
            try:
                taken += await session.ask(SessionRequest(pd_layers=body), within, _runs_of)
            except EXCUSED:
                break
        return taken

    async def cancel(self) -> None:
        """Push nothing more of it; what has arrived may be used there. Idempotent; never waits, never fails."""
        self.cancel_nowait()

    def cancel_nowait(self) -> None:
        """As `cancel`, from where nothing can be awaited."""
        if not self.is_over and self._session is not None:
            self._newest = Sent(SentState.FAILED, Reason.CANCELLED, 0, 0)
            self._session.end_push(self._transfer)


def failed(text: str) -> Sent:
    """Of a push that nobody takes on, or tells of."""
    return Sent(SentState.FAILED, None, 0, 0, text)


async def ask_send(
    session: Session, body: engine_pb2.PdSend, *, within: float | None
) -> PdTransfer:
    """Begin a push. Given up, it is cancelled. Raises as `SessionStream.ask`."""

    def accept(reply: SessionReply) -> PdTransfer:
        transfer = body_of(reply, "pd_send").pd_send.transfer
        if len(transfer) != TRANSFER_BYTES:
            raise ProtocolBroken(f"the node names a push by {len(transfer)} bytes")
        return PdTransfer(session, transfer, Sent(SentState.PENDING, None, 0, 0))

    request = SessionRequest(pd_send=body)
    return await session.ask(request, within, accept, PdTransfer.cancel_nowait)


async def ask_expect(
    session: Session, body: engine_pb2.PdExpect, *, total_chunks: int, within: float | None
) -> Found:
    """Expect a push. Given up, its ticket is cancelled. Raises as `SessionStream.ask`."""

    def accept(reply: SessionReply) -> Found:
        found = body_of(reply, "lookup").lookup
        if found.total_chunks != total_chunks:
            if found.ticket:
                session.end_ticket(found.ticket)
            raise ProtocolBroken(
                f"the node counts {found.total_chunks} chunks in a prompt of {total_chunks}"
            )
        return session.found(found)

    return await session.ask(SessionRequest(pd_expect=body), within, accept, Found.undo)


async def _ask_sent(session: Session, transfer: bytes, *, within: float) -> Sent:
    """The node answers when the time is over; its answer has a second more to come, or half of what it allows."""
    allowed_ms = session.limits.deadline_ms_max
    spare_ms = min(1000, allowed_ms // 2)
    within_ms = max(0, min(int(within * 1000), allowed_ms - spare_ms))
    request = SessionRequest(pd_wait=engine_pb2.PdWait(transfer=transfer, within_ms=within_ms))
    return await session.ask(request, (within_ms + spare_ms) / 1000, _sent_of)


def _runs_of(reply: SessionReply) -> int:
    return body_of(reply, "pd_layers").pd_layers.runs


def _sent_of(reply: SessionReply) -> Sent:
    """A state or reason of a newer node is none that this client knows: then it is not over, or failed for none."""
    sent = body_of(reply, "pd_wait").pd_wait
    state = _STATES.get(sent.state, SentState.PENDING)
    reason = _REASONS.get(sent.reason) if state is SentState.FAILED else None
    return Sent(state, reason, sent.bytes, sent.held_bytes, sent.text, sent.early_bytes)
