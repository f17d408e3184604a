"""The sender: pushes what engines here prefill to the nodes that decode it, chunk by chunk as it is committed.

Each push has one coroutine (`pd_pushing.py`), each node that is pushed to one lane (`pd_lane.py`). Outcomes are
remembered until they are too many.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import assert_never

from anyio import move_on_after

from penstock.actors.api import gateway, l1, loader, pd
from penstock.actors.api.errors import InvalidField
from penstock.actors.api.l1_saving import DIGEST_BYTES
from penstock.actors.api.pd_wire import (
    CHUNKS_MAX,
    OBJECTS_MAX,
    PRIORITY_MAX,
    TRANSFER_BYTES,
    Reason,
    TransferId,
)
from penstock.actors.api.peers import PeerLink, Peers
from penstock.actors.api.types import KEY_BYTES, REQUEST_ID_CHARS_MAX, Memory, TicketId
from penstock.actors.pd_config import PdConfig
from penstock.actors.pd_lane import Lane
from penstock.actors.pd_metrics import SentMetrics
from penstock.actors.pd_pushing import Pushing
from penstock.actors.pd_surroundings import SenderAround, patience_of
from penstock.actors.room import Room
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry


class PdSender(pd.PdSender):
    inflight_max = 1024  # those who wait for outcomes, of which there may be fewer, and all others

    def __init__(
        self,
        limits: PdConfig,
        *,
        ref: Ref[pd.PdSender],
        ask_s: float,
        manager: Ref[l1.L1Manager],
        peers: Ref[Peers],
        memory: Memory,
        telemetry: Telemetry,
    ) -> None:
        """`ref` is this actor's own: L1 tells it of tickets. `ask_s`: how long another actor may take for a step."""
        watcher: Ref[gateway.Gateway] = Ref(ref.mailbox)  # it takes what L1 tells a watcher
        self._limits = limits
        self._around = SenderAround(
            limits,
            patience_of(limits),
            ask_s,
            manager,
            peers,
            memory,
            Room(limits.inflight),
            loader=ref,
            watcher=watcher,
            lane_of=self._lane_of,
            metrics=SentMetrics(
                telemetry,
                pushes=lambda: float(len(self._pushes)),
                inflight=lambda: float(self._around.room.taken_bytes),
            ),
            log=Log("pd_sender"),
        )
        self._pushes: dict[TransferId, Pushing] = {}  # under way, <= sends_max
        self._tickets: dict[TicketId, Pushing] = {}  # the same
        self._over: OrderedDict[TransferId, Pushing] = OrderedDict()  # len <= outcomes_max
        self._lanes: dict[PeerLink, Lane] = {}
        self._waiters = 0  # <= waiters_max
        self._committed = self._failed = self._bytes_sent = 0  # of what is over

    async def on_stop(self) -> None:
        for push in self._pushes.values():
            push.give_up(Reason.STOPPING)

    async def receive(self, msg: pd.SenderMessage) -> object:
        match msg:
            case pd.WaitSent():
                return answer(msg, await self._wait_sent(msg))
            case pd.Layers():
                return answer(msg, await self._layers(msg))
            case _:
                return self._receive_now(msg)

    def _receive_now(
        self,
        msg: pd.Send
        | pd.Cancel
        | pd.SessionOver
        | pd.MeasureSent
        | gateway.TicketMoved
        | loader.LoaderNews,
    ) -> object:
        match msg:
            case pd.Send():
                return answer(msg, self._send(msg))
            case pd.Cancel():
                return answer(msg, self._cancel(msg))
            case pd.SessionOver():
                for push in self._pushes.values():
                    if push.send.session == msg.session:
                        push.source_over()
                return answer(msg, None)
            case gateway.TicketMoved():
                self._moved(msg)
                return answer(msg, None)
            case loader.Leave():
                if msg.ticket in self._tickets:
                    self._tickets[msg.ticket].source_over()
                return answer(msg, None)
            case loader.Stirred():
                return answer(msg, None)
            case pd.MeasureSent():
                return answer(msg, self._measure())
            case _:
                assert_never(msg)

    # Engines.

    def _send(self, msg: pd.Send) -> TransferId:
        _check(msg)
        if len(self._pushes) >= self._limits.sends_max:
            raise pd.TooManyTransfers(
                f"{self._limits.sends_max} pushes are under way: wait for some, or raise"
                " cluster.pd.sends_max"
            )
        transfer = TransferId(os.urandom(TRANSFER_BYTES))
        push = Pushing(msg, transfer, TicketId(os.urandom(TRANSFER_BYTES)), self._around)
        self._pushes[transfer] = self._tickets[push.ticket] = push
        self.start_soon(self._run, push, name="pd push")
        return transfer

    async def _run(self, push: Pushing) -> None:
        try:
            await push.run()
        finally:
            del self._pushes[push.transfer], self._tickets[push.ticket]
            self._over[push.transfer] = push
            while len(self._over) > self._limits.outcomes_max:
                self._over.popitem(last=False)
            is_committed = push.outcome.state is pd.SentState.COMMITTED
            self._committed += is_committed
            self._failed += not is_committed
            self._bytes_sent += push.outcome.bytes

    async def _layers(self, msg: pd.Layers) -> int:
        objects = len(msg.indices)
        if not (objects and msg.digests) or len(msg.digests) % (DIGEST_BYTES * objects):
            raise InvalidField(
                "pd_layers.digests", "give as many runs for each object, and one at least"
            )
        if len(msg.digests) > DIGEST_BYTES * pd.LAYER_RUNS_MAX:
            raise InvalidField("pd_layers.digests", f"at most {pd.LAYER_RUNS_MAX} runs at a time")
        push = self._find(msg.transfer, msg.session)
        return 0 if push.over.is_set() else await push.layers(msg)

    async def _wait_sent(self, msg: pd.WaitSent) -> pd.Sent:
        push = self._find(msg.transfer, msg.session)
        if not push.over.is_set():
            if self._waiters >= self._limits.waiters_max:
                raise pd.TooManyTransfers(
                    f"{self._limits.waiters_max} wait for outcomes already: ask later, or raise"
                    " cluster.pd.waiters_max"
                )
            self._waiters += 1
            try:
                with move_on_after(msg.within_s):
                    await push.over.wait()
            finally:
                self._waiters -= 1
        if push.over.is_set():
            return push.outcome
        return push.told(pd.SentState.PENDING)

    def _cancel(self, msg: pd.Cancel) -> bool:
        push = self._pushes.get(msg.transfer)
        if push is None or push.send.session != msg.session:
            return False
        push.give_up(Reason.CANCELLED)
        return True

    def _find(self, transfer: TransferId, session: object) -> Pushing:
        push = self._pushes.get(transfer) or self._over.get(transfer)
        if push is None or push.send.session != session:
            raise pd.TransferUnknown("no such push of this session, or it is over for long")
        return push

    # L1 and links.

    def _moved(self, msg: gateway.TicketMoved) -> None:
        if (push := self._tickets.get(msg.ticket)) is not None:
            push.moved(msg.hit_chunks, is_final=msg.hit_chunks == msg.promised_chunks)

    def _lane_of(self, link: PeerLink) -> Lane:
        lane = self._lanes.get(link)
        if lane is None:
            lane = self._lanes[link] = Lane(link)
            self.start_soon(self._run_lane, link, lane, name="pd lane")
        return lane

    async def _run_lane(self, link: PeerLink, lane: Lane) -> None:
        try:
            await lane.run()
        finally:
            del self._lanes[link]

    # Numbers.

    def _measure(self) -> pd.Usage:
        return pd.Usage(
            transfers=len(self._pushes),
            waiting=0,
            bytes_held=self._around.room.taken_bytes,
            committed=self._committed,
            failed=self._failed,
            bytes_moved=self._bytes_sent + sum(one.sent_bytes for one in self._pushes.values()),
        )


def _check(msg: pd.Send) -> None:
    chunks, torn = divmod(len(msg.keys), KEY_BYTES)
    if not 1 <= len(msg.request_id) <= REQUEST_ID_CHARS_MAX:
        raise InvalidField("request_id", f"1 to {REQUEST_ID_CHARS_MAX} characters")
    if torn or not 1 <= chunks <= CHUNKS_MAX:
        raise InvalidField("prompt", f"1 to {CHUNKS_MAX} whole chunks, not {chunks}")
    if not msg.slots or sorted(set(msg.slots)) != list(msg.slots):
        raise InvalidField("slots", "ascending, and at least one")
    if msg.slots[-1] >= len(msg.shape.slots) or msg.slots[0] < 0:
        raise InvalidField("slots", f"the shape has {len(msg.shape.slots)}")
    if chunks * len(msg.slots) > OBJECTS_MAX:
        raise InvalidField("prompt", f"at most {OBJECTS_MAX} objects")
    if not 0 <= msg.priority <= PRIORITY_MAX:
        raise InvalidField("priority", f"0 to {PRIORITY_MAX}")
