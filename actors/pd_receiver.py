"""The receiver: takes in what other nodes push to engines of this one, within a budget of its own.

Each request has one coroutine (`pd_requests.py`), and each push of it another (`pd_intake.py`); what a push does is
decided by its session. What one life has granted is void when the next begins: its landings were closed, and its
tickets became final at what they had hit.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Any, assert_never

from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_loading, l1_saving, loader, pd, pd_streams
from penstock.actors.api.pd_wire import Abort, Offer, Phase, Query, Reason, State, TransferId, Word
from penstock.actors.api.types import Epoch, Memory, Pool, Shape, Shortfall
from penstock.actors.core.pd_budget import tokens_held
from penstock.actors.load_targets import whole_pages
from penstock.actors.pd_config import PdConfig
from penstock.actors.pd_intake import Intake
from penstock.actors.pd_metrics import ReceivedMetrics
from penstock.actors.pd_requests import Request
from penstock.actors.pd_surroundings import ReceiverAround, patience_of
from penstock.actors.stores.digests import Digester
from penstock.actors.telling import Telling
from penstock.runtime.channel import Connection
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry

FORSAKEN_OBJECTS_A_STEP = 256  # of loads that a life left behind, and chunks of its tickets
SHAPES_MAX = 1024  # namespaces whose shapes are remembered
ENDED_MAX = 4096  # transfers, and requests, that are over: what still comes for them is told why


class PdReceiver(pd.PdReceiver):
    def __init__(
        self,
        limits: PdConfig,
        *,
        epoch: Epoch,
        ask_s: float,
        manager: Ref[l1.L1Manager],
        memory: Memory,
        digester: Digester,
        telemetry: Telemetry,
    ) -> None:
        """`epoch` of this node's life; `ask_s`: how long L1 may take for a step."""
        self._limits = limits
        self._log = Log("pd_receiver")
        self._around = ReceiverAround(
            limits,
            patience_of(limits),
            epoch,
            ask_s,
            manager,
            memory,
            digester,
            Telling(manager, ask_s=ask_s, start_soon=self.start_soon),
            self._log,
            ReceivedMetrics(
                telemetry,
                pushes=lambda: float(self._measure().transfers),
                waiting=lambda: float(self._around.budget.waiting),
                taken=lambda: float(self._around.budget.taken_bytes),
            ),
            self._admitted,
        )
        self._requests: dict[str, Request] = {}  # len <= requests_max
        self._intakes: dict[TransferId, Intake] = {}  # of them; len <= receives_max
        self._finding: set[TransferId] = set()  # offers whose namespace L1 is asked for; as intakes
        self._connections: dict[Connection, None] = {}  # that are watched: those of intakes
        self._shapes: OrderedDict[bytes, tuple[Shape, ...]] = OrderedDict()  # by namespace
        self._ended: OrderedDict[TransferId, Reason] = OrderedDict()  # len <= ENDED_MAX
        # Requests that nobody expects any more, and until when their offers are refused: len <= ENDED_MAX.
        self._left: OrderedDict[str, float] = OrderedDict()

    async def on_start(self) -> None:
        tickets, is_over = 0, False
        while not is_over:
            forsake = l1_loading.Forsake(FORSAKEN_OBJECTS_A_STEP, Pool.PD)
            step = await self._around.l1.ask(forsake, within=self._around.ask_s)
            tickets, is_over = tickets + step.tickets, step.is_over
            await checkpoint()
        if tickets:
            self._log.warning("pd_tickets_forsaken", tickets=tickets)

    async def on_stop(self) -> None:
        for intake in [*self._intakes.values()]:
            intake.dismiss(Reason.STOPPING)

    def receive(self, msg: pd.ReceiverMessage) -> object:
        match msg:
            case pd_streams.Heard():
                self._heard(msg.stream, msg.word)
                return answer(msg, None)
            case pd_streams.StreamOver():
                return answer(msg, None)  # another one is made, or the link is lost, too
            case pd.Expect():
                self._expect(msg)
                return answer(msg, None)
            case loader.Leave():
                self._leave(msg)
                return answer(msg, None)
            case loader.Stirred():
                return answer(msg, None)
            case pd.CheckPrompt():
                return answer(msg, self._check_prompt(msg))
            case pd.MeasureReceived():
                return answer(msg, self._measure())
            case _:
                assert_never(msg)

    # Engines.

    def _expect(self, msg: pd.Expect) -> None:
        request = self._requests.get(msg.request_id)
        if request is not None and not request.agrees(msg.keys):
            self._log.warning("pd_prompts_differ", request=msg.request_id)
            self._settle(msg, Shortfall.FAILED)
            return
        if request is None and (request := self._open(msg.request_id, msg.keys)) is None:
            self._settle(msg, Shortfall.BUSY)
            return
        self._left.pop(msg.request_id, None)
        self._know(msg.shape)
        request.expect(msg)

    def _settle(self, msg: pd.Expect, shortfall: Shortfall) -> None:
        self._around.metrics.final(shortfall)
        self._around.telling.tell_now(msg.ticket, l1_loading.Settle(msg.ticket, shortfall))

    def _leave(self, msg: loader.Leave) -> None:
        for request in self._requests.values():
            if request.leave(msg.ticket):
                return

    def _check_prompt(self, msg: pd.CheckPrompt) -> int:
        chunk_bytes = sum(whole_pages(slot.bytes) for slot in msg.shape.slots)
        receive = self._limits.receive
        held = tokens_held(receive, chunk_bytes=chunk_bytes, chunk_tokens=msg.chunk_tokens)
        wanted = max(msg.max_prompt_tokens, self._limits.max_prompt_tokens)
        if wanted > held:
            chunks = -(-wanted // msg.chunk_tokens)
            raise pd.PromptTooLong(
                f"pd.receive, {receive} bytes, holds prompts of {held} tokens, and {wanted} are expected:"
                f" give it {chunks * chunk_bytes} bytes, or expect shorter prompts here"
            )
        if receive % chunk_bytes:
            self._log.info_once(
                "pd_receive_aligned",
                msg.shape.namespace,
                bytes=receive,
                used_bytes=receive // chunk_bytes * chunk_bytes,
                prompt_tokens_max=held,
            )
        return held

    # Senders.

    def _heard(self, stream: pd_streams.PdStream, word: Word) -> None:
        if (intake := self._intakes.get(word.transfer)) is not None:
            if intake.connection is stream.connection:
                intake.heard(word, stream)
            else:
                stream.say(Abort(word.transfer, Reason.STALE, "it belongs to another link"))
        elif (reason := self._ended.get(word.transfer)) is not None:
            if not isinstance(word, Abort):
                stream.say(Abort(word.transfer, reason))
        elif isinstance(word, Offer):
            self._offered(stream, word)
        elif isinstance(word, Query):
            stream.say(State(word.transfer, Phase.UNKNOWN))

    def _offered(self, stream: pd_streams.PdStream, offer: Offer) -> None:
        if (refused := self._refusal(offer)) is not None:
            self._refuse(stream, offer, *refused)
            return
        shape = self._shape_of(offer)
        if shape is None and offer.transfer in self._finding:
            return  # it is said twice
        if shape is None and len(self._finding) < self._limits.receives_max:
            self._finding.add(offer.transfer)
            self.start_soon(self._find_shape, stream, offer, name="pd find shape")
            return
        request = self._requests.get(offer.request_id)
        if request is None and shape is not None:
            request = self._open(offer.request_id, offer.keys)
        if shape is None or request is None or len(self._intakes) >= self._limits.receives_max:
            self._refuse(stream, offer, Reason.BUSY, "the node is at its bound of pushes")
            return
        intake = Intake(offer, stream, shape, request, self._around)
        self._intakes[offer.transfer] = intake
        request.add(offer.transfer, intake, offer.keys)
        self._watch(stream.connection)
        self.start_soon(self._run_intake, offer.transfer, intake, name="pd intake")

    def _refusal(self, offer: Offer) -> tuple[Reason, str] | None:
        if offer.epoch != self._around.epoch:
            return Reason.STALE, "the offer is for another life of this node"
        if offer.transfer in self._around.budget:
            return Reason.STALE, "it is over, and what it has brought is still read"
        if offer.slices:
            return Reason.UNSUPPORTED, "this node takes whole objects, of equal shards"
        if self._left.get(offer.request_id, -math.inf) > asyncio.get_running_loop().time():
            return Reason.CANCELLED, ""
        request = self._requests.get(offer.request_id)
        if request is not None and not request.agrees(offer.keys):
            return Reason.MISMATCH, ""
        return None

    def _refuse(self, stream: pd_streams.PdStream, offer: Offer, reason: Reason, text: str) -> None:
        sender = stream.node_id
        self._log.info_once(
            "pd_offer_refused", sender, reason, sender=sender, reason=reason.name, text=text
        )
        stream.say(Abort(offer.transfer, reason, text))

    def _shape_of(self, offer: Offer) -> Shape | None:
        """That of its namespace which has these objects."""
        for shape in self._shapes.get(offer.namespace, ()):
            if offer.slots[-1] < len(shape.slots) and offer.logical_bytes == tuple(
                shape.slots[slot].bytes for slot in offer.slots
            ):
                return shape
        return None

    async def _find_shape(self, stream: pd_streams.PdStream, offer: Offer) -> None:
        find = l1_saving.FindShapes(offer.namespace)
        try:
            shapes = await self._around.l1.ask(find, within=self._around.ask_s)
        except PenstockError as refusal:
            self._refuse(stream, offer, Reason.BUSY, str(refusal))
            return
        finally:
            self._finding.discard(offer.transfer)
        for shape in shapes:
            self._know(shape)
        if offer.transfer in self._intakes:
            return  # it was offered twice meanwhile
        if self._shape_of(offer) is None:
            self._refuse(stream, offer, Reason.NAMESPACE, "")
        else:
            self._offered(stream, offer)

    def _know(self, shape: Shape) -> None:
        known = self._shapes.setdefault(shape.namespace, ())
        self._shapes.move_to_end(shape.namespace)
        if shape not in known:
            self._shapes[shape.namespace] = (*known, shape)
        while len(self._shapes) > SHAPES_MAX:
            self._shapes.popitem(last=False)

    # Lives of requests, pushes and connections.

    def _open(self, request_id: str, keys: bytes) -> Request | None:
        """None: there are too many."""
        if len(self._requests) >= self._limits.requests_max:
            return None
        request = self._requests[request_id] = Request(request_id, keys, self._around)
        self.start_soon(self._run_request, request, name="pd request")
        return request

    async def _run_request(self, request: Request) -> None:
        await request.run()
        del self._requests[request.request_id]
        if request.was_expected:
            self._left[request.request_id] = (
                asyncio.get_running_loop().time() + self._limits.offer_within
            )
            _cut(self._left)

    async def _run_intake(self, transfer: TransferId, intake: Intake) -> None:
        try:
            await intake.run()
        finally:
            del self._intakes[transfer]
            self._around.counters.bytes_verified += intake.session.verified_bytes
        self._ended[transfer] = intake.session.reason or Reason.STALE
        _cut(self._ended)

    def _watch(self, connection: Connection) -> None:
        if connection not in self._connections:
            self._connections[connection] = None
            self.start_soon(self._wait_lost, connection, name="pd wait lost")

    async def _wait_lost(self, connection: Connection) -> None:
        await connection.wait_lost()
        del self._connections[connection]
        for intake in self._intakes.values():
            if intake.connection is connection:
                intake.lost_peer()

    def _admitted(self, transfer: TransferId, size_bytes: int) -> None:
        intake = self._intakes.get(transfer)
        if intake is not None:  # else this life has ended, and what it held comes back only now
            intake.admitted(size_bytes)

    # Numbers.

    def _measure(self) -> pd.Usage:
        budget, counters = self._around.budget, self._around.counters
        now_verified = sum(one.session.verified_bytes for one in self._intakes.values())
        return pd.Usage(
            transfers=sum(not one.session.is_over for one in self._intakes.values()),
            waiting=budget.waiting,
            bytes_held=budget.taken_bytes,
            committed=counters.committed,
            failed=counters.failed,
            bytes_moved=counters.bytes_verified + now_verified,
        )

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        self._around.budget.validate()
        assert len(self._requests) <= self._limits.requests_max
        assert len(self._intakes) <= self._limits.receives_max
        for intake in self._intakes.values():
            intake.session.validate()


def _cut(remembered: OrderedDict[Any, Any]) -> None:
    """Forget the oldest."""
    while len(remembered) > ENDED_MAX:
        remembered.popitem(last=False)
