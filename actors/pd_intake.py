"""One push at its receiver: what its session decides is carried out here.

    borrow what L1 has -> turn at the budget -> reserve all of the rest -> open landings, grant
    then, as the session says: close a landing, verify what came, land it in L1, let go of it

All that comes from outside waits in an inbox for the one coroutine of the push. Whatever memory is still written is
held until its landing has been closed; the budget has it back when nobody holds it.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVarTuple

from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1_loading
from penstock.actors.api.pd_streams import PdStream
from penstock.actors.api.pd_wire import Data, Offer, Reason, Word
from penstock.actors.api.types import Shape
from penstock.actors.core.pd_budget import OverBudget
from penstock.actors.core.pd_receiving import Receiving, ReceivingStep
from penstock.actors.core.pd_session import (
    Close,
    Drop,
    Effect,
    Land,
    Layout,
    ObjectDigests,
    Over,
    Say,
    Verify,
)
from penstock.actors.held import letting_go
from penstock.actors.locating import News
from penstock.actors.pd_admission import Admission
from penstock.actors.pd_memory import (
    PartMemory,
    payloads_of,
)
from penstock.actors.pd_requests import Request
from penstock.actors.pd_surroundings import ReceiverAround, tell_moved, tickets_of
from penstock.actors.stores.digests import runs_agree
from penstock.runtime.channel import ChannelLost
from penstock.runtime.errors import PenstockError, forget_frames
from penstock.runtime.hazard import hazard

VIEWS = 4096  # digested in one go
Args = TypeVarTuple("Args")
_DIGEST = struct.Struct("<Q")


class Intake:
    """Takes in one push. `run` is its coroutine."""

    def __init__(
        self, offer: Offer, stream: PdStream, shape: Shape, request: Request, around: ReceiverAround
    ) -> None:
        runs = tuple(shape.slots[slot].runs for slot in offer.slots)
        self.offer = offer
        self.request = request
        self.connection = stream.connection
        self._layout = Layout.of(offer, runs)
        self.session = Receiving(offer, self._layout, around.patience, now=_now())
        self._stream = stream
        self._around = around
        self._inbox: deque[Word | Sequence[int]] = deque()  # of one turn of the loop or two
        self._news = News()
        self._scope = CancelScope()  # of what is done before it is granted
        self._tasks: TaskGroup | None = None
        self._parts: dict[int, PartMemory] = {}  # granted, and not let go of
        self._admission = Admission(offer, self._layout, shape, request, around)
        self._is_dismissed = False
        self._offered_at = _now()

    # What comes.

    def heard(self, word: Word, stream: PdStream) -> None:
        self._stream = stream
        self._inbox.append(word)
        self._news.tell()

    def admitted(self, size_bytes: int) -> None:
        """It is its turn at the budget."""
        self._admission.admitted(size_bytes)

    def lost_peer(self) -> None:
        """Its data connection is lost."""
        self._do(self.session.give_up(Reason.PEER))

    def dismiss(self, reason: Reason) -> None:
        """Nobody wants it any more."""
        self._is_dismissed = True
        self._admission.let_go()
        self._do(self.session.dismiss(reason))

    def forget(self, memory: PartMemory) -> None:
        """What another push was to bring will not come."""
        self._admission.forget(memory)

    @property
    def is_drained(self) -> bool:
        """Nothing more comes of it, or of those whose parts it waits for."""
        return self.session.is_drained and self._admission.has_all_landed

    @property
    def is_whole(self) -> bool:
        return self.session.step is ReceivingStep.COMMITTED

    # The coroutine.

    async def run(self) -> None:
        """Until it is over, and dismissed by its request."""
        try:
            async with create_task_group() as self._tasks:
                self._begin(self._admit)
                while True:
                    seen = self._news.count
                    self._look()
                    if self._is_dismissed and self.session.is_drained:
                        break
                    with CancelScope(deadline=self.session.until):
                        is_more = self._inbox or self._news.count != seen
                        await (checkpoint() if is_more else self._news.wait())
        finally:
            self._tasks = None
            self._scope.cancel()
            with CancelScope(shield=True):
                await self._close_all()
            self._parts.clear()
            self._admission.let_go()

    def _look(self) -> None:
        while self._inbox:
            came = self._inbox.popleft()
            if isinstance(came, Sequence):
                self._do(self.session.arrived(came, _now()))
                continue
            self._do(self.session.heard(came, _now()))
            if isinstance(came, Data):
                break  # its digests have taken a step
        if self.session.until <= _now():
            self._do(self.session.tick(_now()))

    async def _close_all(self) -> None:
        """The actor ends: nobody is to write where others may be next."""
        for memory in self._parts.values():
            if memory.landing is not None:
                await memory.landing.close()

    def _arrived(self, numbers: Sequence[int]) -> None:
        self._inbox.append(tuple(numbers))
        self._news.tell()

    # Effects.

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Say():
                    self._stream.say(effect.word)
                case Close():
                    self._begin(self._close, effect.first_chunk)
                case Verify():
                    self._begin(self._verify, effect.first_chunk, effect.objects)
                case Land():
                    self._begin(self._land, effect.first_chunk, effect.objects)
                case Drop():
                    self._drop(effect.first_chunk)
                case Over():
                    self._over(effect)
        self._news.tell()
        if self.is_drained:
            self.request.stir()

    def _begin(self, work: Callable[[*Args], Coroutine[Any, Any, None]], *args: *Args) -> None:
        assert self._tasks is not None, "parts are granted by `run` alone"
        self._tasks.start_soon(letting_go, work, *args)

    async def _close(self, first: int) -> None:
        landing = self._parts[first].landing
        assert landing is not None
        await hazard("pd.before_close")
        await landing.close()
        await hazard("pd.after_close")
        self._do(self.session.closed(first))

    async def _verify(self, first: int, objects: Sequence[ObjectDigests]) -> None:
        memory, bad = self._parts[first], list[int]()
        views: list[memoryview] = []
        wanted: list[tuple[int, int]] = []  # place, digest
        for one in objects:
            view = memory.views[one.place]
            if not runs_agree(one.digest, one.runs, len(view)):
                bad.append(one.place)
                continue
            own, digests = payloads_of(view, one)
            views += own
            wanted += [(one.place, digest) for digest in digests]
        for start in range(0, len(views), VIEWS):
            found = await self._around.digester.of(views[start : start + VIEWS])
            there = wanted[start : start + VIEWS]
            bad += [at for (at, digest), is_ in zip(there, found, strict=True) if digest != is_]
        await hazard("pd.after_verify")
        before = self.session.verified_bytes
        self._do(self.session.verified(first, [*dict.fromkeys(bad)]))
        self._around.metrics.verified(self.session.verified_bytes - before)

    async def _land(self, first: int, objects: Sequence[ObjectDigests]) -> None:
        memory = self._parts[first]
        waiters = self._around.waiters_of(memory, self.request)
        tickets, runs = tickets_of(waiters), [one.runs for one in objects]
        land = l1_loading.Land(
            memory.lease,
            tuple(memory.indices[one.place] for one in objects),
            b"".join(_DIGEST.pack(one.digest) for one in objects),
            b"".join(runs) if all(runs) else b"",
            len(memory.indices) - len(objects),
            tickets,
        )
        try:
            landed = await self._around.l1.ask(land, within=self._around.ask_s)
        except PenstockError as refusal:
            self._around.log.warning("pd_land_refused", reason=str(refusal))
            forget_frames(refusal)
            self._do(self.session.not_landed(first))
            return
        if landed.hold is not None:
            memory.lease = landed.lease
            memory.grip.holds.append(landed.hold)
        memory.is_landed = True
        tell_moved(waiters, tickets, landed.hits)
        self._do(self.session.landed(first))
        for waiter in self._around.waiters_of(memory, self.request):
            if waiter in waiters:
                waiter.stir()
            else:
                waiter.look_again()

    def _drop(self, first: int) -> None:
        memory = self._parts.pop(first)
        if not memory.is_landed:
            self._around.lost(memory)

    def _over(self, over: Over) -> None:
        self._scope.cancel()
        self._around.withdraw(self.offer.transfer)
        if over.reason is not None:
            self._around.log.info(
                "pd_receive_ended",
                request=self.offer.request_id,
                sender=self._stream.node_id,
                reason=over.reason.name,
                text=over.text,
            )
        self._around.ended(over.reason)
        self.request.stir()

    # Admission.

    async def _admit(self) -> None:
        with self._scope:
            try:
                parts = await self._admission.run()
                try:
                    await hazard("pd.before_grant")
                    self._around.metrics.allocated(_now() - self._offered_at)
                    await self._grant(parts)
                finally:
                    self._admission.give_up(parts)
            except OverBudget as problem:
                self._do(self.session.give_up(Reason.TOO_LARGE, str(problem)))
            except PenstockError as refusal:
                self._do(self.session.give_up(Reason.BUSY, str(refusal)))
                forget_frames(refusal)
        self._admission.claim.close()

    async def _grant(self, parts: list[PartMemory]) -> None:
        """One after the other; what is left in `parts` was not granted."""
        while parts:
            await checkpoint()
            if self.session.is_over:
                return
            memory, landing = parts[0], b""
            if memory.views:
                try:
                    memory.landing = self.connection.open_landing(memory.slots(), self._arrived)
                except ChannelLost as lost:
                    self._do(self.session.give_up(Reason.PEER, str(lost)))
                    return
                self._parts[memory.first_chunk] = memory
                landing = memory.landing.grant
            del parts[0]
            self._do(self.session.granted(memory.first_chunk, memory.needs, landing, _now()))


def _now() -> float:
    return asyncio.get_running_loop().time()
