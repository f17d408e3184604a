"""One push at its sender: a node-owned ticket over the prompt says how far it is in L1; what is granted is lent by L1
and given to the data channel, some batches at a time; its session decides all else.

    link -> ticket -> offer -> (borrow -> tell digests -> send)* -> commit -> outcome

Of what is granted and not committed, those runs are sent that their writer has said are whole (`layers`): lent out of
its reservation.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_saving, pd, peers
from penstock.actors.api.pd_wire import Offer, Reason, TransferId, Word, piece_number
from penstock.actors.api.types import (
    KEY_BYTES,
    NODE_INSTANCE,
    NODE_SESSION,
    Pool,
    TicketId,
)
from penstock.actors.core.pd_early import EarlyRuns, RunBatch
from penstock.actors.core.pd_granted import Batch
from penstock.actors.core.pd_sending import Sending, SendingStep
from penstock.actors.core.pd_session import Effect, Layout, ObjectDigests, Over, Say
from penstock.actors.held import letting_go
from penstock.actors.locating import News
from penstock.actors.pd_lane import Lane
from penstock.actors.pd_layers import Announced, Lies, packed_indices, run_pieces
from penstock.actors.pd_surroundings import SenderAround
from penstock.runtime.channel import ChannelLost, LandingRefused, Piece
from penstock.runtime.errors import PenstockError, forget_frames
from penstock.runtime.hazard import hazard


class Pushing:
    """`run` is its coroutine. `ticket` is that of its prompt here."""

    def __init__(
        self, send: pd.Send, transfer: TransferId, ticket: TicketId, around: SenderAround
    ) -> None:
        self.send = send
        self.transfer = transfer
        self.ticket = ticket
        self.over = asyncio.Event()
        self.outcome = pd.Sent(pd.SentState.PENDING, None, 0, 0)
        self._around = around
        self._begun_at = _now()
        self._end_by = self._begun_at + send.within_s
        kinds = [send.shape.slots[slot] for slot in send.slots]
        self._layout = Layout(
            len(send.keys) // KEY_BYTES,
            send.slots,
            tuple(kind.bytes for kind in kinds),
            tuple(kind.runs for kind in kinds),
        )
        self._early = EarlyRuns(self._layout, runs_max=around.limits.early_runs_max)
        self._session: Sending | None = None  # once there is a link
        self._lane: Lane | None = None
        self._announced = Announced(send, self._layout, around.memory)
        self._inbox: deque[Word] = deque()  # of one turn of the loop or two
        self._news = News()
        self._hit_chunks = 0
        self._is_source_over = False
        self._given_up: tuple[Reason, str] | None = None  # before there was a session, or by it
        self._tasks: TaskGroup | None = None
        self._batches = 0  # being sent, <= batches_max

    # What comes.

    def heard(self, word: Word) -> None:
        self._inbox.append(word)
        self._news.tell()

    def stream_back(self) -> None:
        if self._session is not None:
            self._do(self._session.stream_back(_now()))

    def lost(self, why: str) -> None:
        self.give_up(Reason.PEER, why)

    def moved(self, hit_chunks: int, *, is_final: bool) -> None:
        """The watermark of its ticket."""
        self._hit_chunks = max(self._hit_chunks, hit_chunks)
        self._is_source_over = self._is_source_over or is_final
        self._news.tell()

    def source_over(self) -> None:
        """What is not in L1 yet will not come."""
        self._is_source_over = True
        self._news.tell()

    def give_up(self, reason: Reason, text: str = "") -> None:
        self._given_up = self._given_up or (reason, text)
        self._news.tell()

    async def layers(self, msg: pd.Layers) -> int:
        """How many of these runs are pushed early. Raises what L1 refuses; InvalidField for runs that are none."""
        borrow = l1_saving.BorrowWriting(msg.lease, msg.session, packed_indices(msg.indices))
        lent = await self._around.l1.ask(borrow, within=self._around.ask_s)
        if lent is None or lent.shape.geometry != self.send.shape.geometry:
            return 0
        taken = 0
        for place, digests, lies in self._announced.runs(msg, lent):
            taken += self._written(place, msg.first_run, digests, lies)
        self._news.tell()
        return taken

    def _written(self, place: int, first_run: int, digests: Sequence[int], lies: Lies) -> int:
        if self.over.is_set() or self._given_up is not None:
            return 0
        if self._session is not None:
            taken, effects = self._session.written(place, first_run, digests, lies)
            self._do(effects)
            return taken
        return self._early.announce(
            place, first_run, digests, lies
        )  # nothing is told: no contradiction

    # The coroutine.

    async def run(self) -> None:
        """Until it is over. Never raises a PenstockError."""
        try:
            async with create_task_group() as self._tasks:
                try:
                    await self._begin()
                    await self._pursue()
                except PenstockError as refusal:
                    reason = Reason.PEER if isinstance(refusal, peers.PeerAway) else Reason.BUSY
                    self._fail(reason, str(refusal))
                    forget_frames(refusal)
                self._tasks.cancel_scope.cancel()
        finally:
            if self.outcome.state is pd.SentState.PENDING:
                self._fail(Reason.STOPPING, "")
            if self._lane is not None:
                self._lane.remove(self.transfer)
            outcome, seconds = self.outcome, _now() - self._begun_at
            self._early.clear()
            self._around.metrics.over(outcome.reason, outcome.bytes, outcome.held_bytes, seconds)
            self.over.set()
            await self._close_ticket()

    async def _begin(self) -> None:
        """Raises PeerAway, and what L1 refuses."""
        send, around = self.send, self._around
        link = await around.peers.ask(peers.FindLink(send.target), within=around.ask_s)
        lookup = l1.Lookup(
            self.ticket,
            send.keys,
            send.shape.geometry,
            NODE_SESSION,
            NODE_INSTANCE,
            1,
            max(0.001, self._end_by - _now()),
            around.watcher,
            around.loader,
            pool=Pool.PD,
        )
        hit = await around.l1.ask(lookup, within=around.ask_s)
        await hazard("pd.after_lookup")
        is_followed = hit.is_hoped or hit.hit_chunks == self._layout.chunks
        if not is_followed:
            self.give_up(Reason.BUSY, "L1 follows no more prompts: raise cluster.pd.chunks_max")
        self.moved(hit.hit_chunks, is_final=False)
        offer = Offer(
            self.transfer,
            send.request_id,
            link.epoch,
            send.shape.namespace,
            send.keys,
            send.slots,
            self._layout.logical_bytes,
            send.priority,
            max(0.001, self._end_by - _now()),
        )
        session = Sending(offer, self._layout, around.patience, now=_now(), early=self._early)
        self._session, self._lane = session, around.lane_of(link)
        self._do(session.begin())
        self._lane.add(self.transfer, self)

    async def _pursue(self) -> None:
        session = self._session
        assert session is not None
        while True:
            seen = self._news.count
            self._look(session)
            self._send_what_may_go(session)
            if session.step is SendingStep.OVER:
                break
            with CancelScope(deadline=session.until):
                await (checkpoint() if self._news.count != seen else self._news.wait())

    def _look(self, session: Sending) -> None:
        while self._inbox:
            self._do(session.heard(self._inbox.popleft(), _now()))
        if self._given_up is not None:
            self._do(session.fail(*self._given_up))
        self._do(session.ready(self._hit_chunks))
        if self._is_source_over:
            self._do(session.source_over())
        if session.until <= _now():
            self._do(session.tick(_now()))

    def _send_what_may_go(self, session: Sending) -> None:
        limits = self._around.limits
        while self._batches < limits.batches_max:
            assert self._tasks is not None
            if (batch := session.take(limits.batch_objects, limits.batch)) is not None:
                self._tasks.start_soon(letting_go, self._push, batch, session, name="pd batch")
            else:
                runs, said = session.take_runs(limits.batch)
                if runs is None:
                    return
                self._do(said)
                self._tasks.start_soon(letting_go, self._push_runs, runs, session, name="pd runs")
            self._batches += 1

    async def _push(self, batch: Batch, session: Sending) -> None:
        async with self._sending(self._layout.bytes_of(batch.places)):
            lent = await self._borrow(batch, session)
            if len(lent) < len(batch.places):
                self.give_up(Reason.SOURCE, "objects have left L1 before they were sent")
                return
            self._do(session.pushing([digests for _, digests in lent]))
            if session.step is not SendingStep.OVER:
                await self._send(batch.landing, [piece for pieces, _ in lent for piece in pieces])
                self._do(session.pushed(batch))

    async def _push_runs(self, batch: RunBatch, session: Sending) -> None:
        """Out of reservations, which may end meanwhile: their memory is held as long as it is read."""
        size = {one.place: session.run_bytes(one.place) for one in batch.pieces}
        async with self._sending(batch.bytes):
            pieces = []
            for one in batch.pieces:
                assert isinstance(one.source, Lies)
                pieces += run_pieces(one.place, one.slot, (one.run,), size[one.place], one.source)
            await self._send(batch.landing, pieces)
            self._do(session.runs_pushed(batch))

    @asynccontextmanager
    async def _sending(self, size_bytes: int) -> AsyncIterator[None]:
        """One batch, in its turn; what it is refused ends the push."""
        room = self._around.room
        await room.take(size_bytes, self.ticket)
        try:
            yield
        except LandingRefused as refusal:
            self.give_up(Reason.STALE, str(refusal))
        except ChannelLost as lost:
            self.give_up(Reason.PEER, str(lost))
        except PenstockError as refusal:
            self.give_up(Reason.BUSY, str(refusal))
            forget_frames(refusal)
        finally:
            room.give_back(size_bytes)
            self._batches -= 1
            self._news.tell()

    async def _send(self, landing: bytes, pieces: Sequence[Piece]) -> None:
        await hazard("pd.before_send")
        assert self._lane is not None
        if pieces:  # else all was sent early
            await self._lane.link.connection.send(landing, pieces)

    async def _borrow(
        self, batch: Batch, session: Sending
    ) -> list[tuple[list[Piece], ObjectDigests]]:
        """In the order of the batch; what is not there is left out."""
        width, keys = self._layout.width, self.send.keys
        chunks = [*dict.fromkeys(place // width for place in batch.places)]
        columns = len(self.send.shape.slots)
        wanted = bytearray(len(chunks) * columns)
        row_of = {chunk: row for row, chunk in enumerate(chunks)}
        place_of: dict[tuple[bytes, int], int] = {}
        for place in batch.places:
            chunk, slot = place // width, self.send.slots[place % width]
            wanted[row_of[chunk] * columns + slot] = 1
            place_of[keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES], slot] = place
        packed = b"".join(keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES] for chunk in chunks)
        borrow = l1_saving.Borrow(packed, self.send.shape.geometry, bytes(wanted))
        lent = await self._around.l1.ask(borrow, within=self._around.ask_s)
        return self._pieces(batch, session, lent, place_of)

    def _pieces(
        self,
        batch: Batch,
        session: Sending,
        lent: Iterable[l1_saving.Borrowed],
        place_of: dict[tuple[bytes, int], int],
    ) -> list[tuple[list[Piece], ObjectDigests]]:
        """Whole objects; of those that were sent in part, the other runs."""
        slot_of = dict(zip(batch.places, batch.slots, strict=True))
        found = {}
        for part in lent:
            for one in part:
                place = place_of[one.key, one.slot]
                view = self._around.memory.view(one.offset, one.logical_bytes)
                slot, rest = slot_of[place], session.rest_of(place)
                if rest is None:
                    pieces = [Piece(piece_number(place), slot, 0, view, part.hold)]
                else:
                    lies = Lies(part.lease, one.offset, view, part.hold)
                    pieces = run_pieces(place, slot, rest, session.run_bytes(place), lies)
                found[place] = pieces, ObjectDigests(place, one.digest, one.run_digests)
        return [found[place] for place in batch.places if place in found]

    # Effects.

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Say():
                    if self._lane is not None:
                        self._lane.say(effect.word)
                case Over(reason=None):
                    self._end(pd.SentState.COMMITTED, None, "")
                case Over():
                    self._fail(effect.reason or Reason.STALE, effect.text)
        if effects:
            self._news.tell()

    def _fail(self, reason: Reason, text: str) -> None:
        self._end(pd.SentState.FAILED, reason, text)

    def _end(self, state: pd.SentState, reason: Reason | None, text: str) -> None:
        self.outcome = self.told(state, reason, text)

    def told(self, state: pd.SentState, reason: Reason | None = None, text: str = "") -> pd.Sent:
        """What it has come to by now."""
        if (session := self._session) is None:
            return pd.Sent(state, reason, 0, 0, text)
        sent, held, early = session.sent_bytes, session.held_bytes, session.early_bytes
        return pd.Sent(state, reason, sent, held, text, early)

    @property
    def sent_bytes(self) -> int:
        return 0 if self._session is None else self._session.sent_bytes

    async def _close_ticket(self) -> None:
        """What it pinned is anybody's again. L1 ends it by itself, if it has no time for that now."""
        close = l1.CloseTickets((self.ticket,), NODE_INSTANCE, NODE_SESSION)
        try:
            with CancelScope(shield=True):
                await self._around.l1.ask(close, within=self._around.ask_s)
        except PenstockError as refusal:
            self._around.log.info("pd_ticket_left", reason=str(refusal))


def _now() -> float:
    return asyncio.get_running_loop().time()
