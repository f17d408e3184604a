"""Stand-ins for the actors around the one under test: they record what they hear and answer from a script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from penstock.actors.api import control, eviction, gateway, l1, l1_saving, session, store
from penstock.actors.api.types import Extents, GeometryId, LeaseId
from penstock.runtime.actor import Actor
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec

Answers = dict[type[Any], Callable[[Any], object]]

EMPTY_USAGE = l1.Usage(*(0 for _ in range(18)))


class Recorder:
    """What all lives of a stand-in heard, and what they answer: set `answers[Message]` to change it."""

    def __init__(self, answers: Answers) -> None:
        self.heard: list[Any] = []
        self.answers = answers

    def serve(self, msg: Any) -> object:
        self.heard.append(msg)
        reply = self.answers.get(type(msg))
        return None if reply is None else reply(msg)

    def of(self, kind: type[Any]) -> list[Any]:
        return [msg for msg in self.heard if isinstance(msg, kind)]


class StandIn(Actor[Any]):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def receive(self, msg: Any) -> object:
        reply = self._recorder.serve(msg)
        return await reply if hasattr(reply, "__await__") else reply


class Fake:
    """A ref with a stand-in behind it, to be supervised as `spec`."""

    def __init__(
        self, to: type[Any], name: str, answers: Answers, *, messages_max: int = 64
    ) -> None:
        self.ref: Ref[Any] = Ref.to(to, name, messages_max=messages_max)
        self.recorder = Recorder(answers)
        self.spec = ChildSpec(self.ref, lambda: StandIn(self.recorder), drain_s=0.1)

    def of(self, kind: type[Any]) -> list[Any]:
        return self.recorder.of(kind)

    @property
    def answers(self) -> Answers:
        return self.recorder.answers


def fake_l1() -> Fake:
    """Everything hits, everything is granted, nothing is ever stale."""
    numbers = iter(range(1, 1 << 20))

    def fresh_id(_: object = None) -> bytes:
        return next(numbers).to_bytes(16, "big")

    answers: Answers = {
        l1.AddGeometry: lambda _: GeometryId(1),
        l1.StreamLost: lambda _: 0,
        l1.OrphanSome: lambda _: l1.Ended(0, is_over=True),
        l1.EndSome: lambda _: l1.Ended(0, is_over=True),
        l1.CloseSome: lambda _: l1.Ended(0, is_over=True),
        l1.ProcessGone: lambda _: 0,
        l1.GiveUp: lambda _: 0,
        l1.Peek: lambda msg: len(msg.keys) // 32,
        l1.Lookup: lambda msg: l1.Hit(msg.ticket, *([len(msg.keys) // 32] * 2)),
        l1.LookAgain: lambda msg: l1.Hit(msg.ticket, *([len(msg.keys) // 32] * 2)),
        l1.Acquire: lambda msg: l1.ReadLease(LeaseId(fresh_id()), Extents(b""), 0, msg.lease_s),
        l1.Release: lambda _: True,
        l1.CloseTickets: lambda msg: l1.Closed(len(msg.tickets), len(msg.tickets)),
        l1.Touch: lambda msg: len(msg.keys) // 32,
        l1.MakeReady: lambda _: None,
        l1.Reserve: lambda msg: granted(LeaseId(fresh_id()), len(msg.keys) // 32, msg.lease_s),
        l1.Commit: lambda msg: l1_saving.Committed(bytes(len(msg.indices) or 1), 0),
        l1.Abort: lambda _: True,
        l1.Evict: lambda msg: l1.Room(msg.bytes_wanted, 1, is_over=False),
        l1.TakePressure: lambda _: EMPTY_USAGE,
        l1.Measure: lambda _: EMPTY_USAGE,
    }
    return Fake(l1.L1Manager, "l1_manager", answers)


def granted(lease: LeaseId, objects: int, lease_s: float, *, missing: int = 0) -> l1.WriteLease:
    """`objects` were granted, and after them `missing` bytes were not."""
    more = 1 if missing else 0
    answers = bytes(objects) + b"\x03" * more
    return l1.WriteLease(lease, answers, Extents(bytes(24 * len(answers))), missing, lease_s)


def fake_sessions() -> Fake:
    return Fake(session.Sessions, "sessions", {session.Count: lambda _: 1})


def fake_eviction() -> Fake:
    def make_room(msg: eviction.MakeRoom) -> int:
        return msg.bytes_wanted

    answers: Answers = {
        eviction.MakeRoom: make_room,
        eviction.Purge: lambda _: l1.Room(0, 0, is_over=True),
    }
    return Fake(eviction.EvictionController, "eviction_controller", answers)


def fake_gateway(*, messages_max: int = 64) -> Fake:
    return Fake(gateway.Gateway, "gateway", {}, messages_max=messages_max)


def store_usage(name: str, state: store.StoreState, detail: str = "") -> store.StoreUsage:
    return store.StoreUsage(name, state, 0, 0, 0, 0, 0, detail)


def fake_store(name: str) -> Fake:
    """One that is open and has nothing."""
    usage = store_usage(name, store.StoreState.OPEN)
    return Fake(store.StoreActor, f"store[{name}]", {store.Measure: lambda _: usage})


def fake_control() -> Fake:
    return Fake(control.Control, "control", {})


async def never(*_: object) -> None:
    await anyio.sleep_forever()
