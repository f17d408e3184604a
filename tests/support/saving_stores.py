"""Stores that a store writer saves to: they look at every byte they are given, and misbehave as planned."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from penstock import _native
from penstock.actors.api import store
from penstock.actors.core.routing import ONE_PLACE, Routing
from penstock.runtime.errors import UnavailableError
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec


def payload(key: bytes, count: int) -> bytes:
    """What the object of this key holds: nothing else can be taken for it."""
    block = hashlib.sha256(key).digest()
    return (block * (count // len(block) + 1))[:count]


@dataclass
class SavePlan:
    """How a store behaves. Changed by a test at any moment."""

    save_s: float = 0.01
    hangs: bool = False  # and reads what it was given until `StoreSide.released`
    hung_place: int | None = None  # what has any object that belongs there hangs likewise
    hangs_at_locate: bool = False
    fails: bool = False
    left_alone: bool = False  # answers at once that it cannot now
    outcome: store.SaveOutcome = store.SaveOutcome.SAVED
    draw: random.Random | None = None
    fault_chance: float = 0.0


class SavingStore(store.StoreActor):
    inflight_max = 256

    def __init__(self, side: StoreSide) -> None:
        self._side = side

    async def receive(self, msg: store.Message) -> object:
        side = self._side
        match msg:
            case store.Locate():
                if side.plan.hangs_at_locate:
                    await anyio.sleep_forever()
                if side.plan.fails:
                    return bytes(len(msg.keys))
                return bytes(map(side.objects.__contains__, msg.keys))
            case store.Save():
                self.start_soon(side.read, msg.sources)
                return await side.save(msg.sources)
            case _:
                raise AssertionError(msg)


class StoreSide:
    """What a store holds over its lives, and what it was given."""

    def __init__(self, name: str, routing: Routing = ONE_PLACE) -> None:
        self.plan = SavePlan()
        self.routing = routing
        self.objects: dict[bytes, store.Source] = {}  # less payload and hold
        self.given_bytes = 0  # under way now
        self.given_bytes_most = 0
        self.saves = 0
        self.released = asyncio.Event()
        self.ref: Ref[store.StoreActor] = Ref.to(
            store.StoreActor, f"store[{name}]", messages_max=256
        )
        self.spec = ChildSpec(self.ref, lambda: SavingStore(self), drain_s=0.1)

    def keep(self, names: Sequence[bytes]) -> None:
        """It has these after all, whatever became of those who asked."""
        nothing = memoryview(b"")
        self.objects |= {
            name: store.Source(name, 0, b"", 0, 0, b"", b"", nothing, None) for name in names
        }

    async def read(self, sources: Sequence[store.Source]) -> None:
        """As a disk does: from the first moment to the last, the bytes are those of the object."""
        size = sum(len(one.payload) for one in sources)
        self.given_bytes += size
        self.given_bytes_most = max(self.given_bytes_most, self.given_bytes)
        try:
            check(sources)
            if self._hangs(sources):
                await self.released.wait()
            else:
                await anyio.sleep(self.plan.save_s / 2)
            check(sources)
        finally:
            self.given_bytes -= size

    async def save(self, sources: Sequence[store.Source]) -> tuple[store.Saved, ...]:
        plan = self.plan
        self.saves += 1
        if plan.left_alone:
            failed = store.Saved(store.SaveOutcome.FAILED, "left alone", is_passing=True)
            return (failed,) * len(sources)
        if self._hangs(sources):
            await anyio.sleep_forever()
        await anyio.sleep(plan.save_s)
        if plan.fails:
            raise UnavailableError("the medium is gone")
        return tuple([self._save_one(one) for one in sources])

    def _hangs(self, sources: Sequence[store.Source]) -> bool:
        places = [self.routing.place_of(one.key, one.device) for one in sources]
        return self.plan.hangs or self.plan.hung_place in places

    def _save_one(self, one: store.Source) -> store.Saved:
        plan = self.plan
        if plan.draw is not None and plan.draw.random() < plan.fault_chance:
            return store.Saved(store.SaveOutcome.FAILED, "drawn")
        if plan.outcome is store.SaveOutcome.SAVED:
            self.objects[one.key] = store.Source(
                key=one.key,
                device=one.device,
                namespace=one.namespace,
                logical_bytes=one.logical_bytes,
                digest=one.digest,
                run_digests=one.run_digests,
                tenant=one.tenant,
                payload=memoryview(b""),
                hold=None,
            )
        return store.Saved(plan.outcome)


def check(sources: Sequence[store.Source]) -> None:
    for one in sources:
        seen = bytes(one.payload[: one.logical_bytes])
        assert seen == payload(one.key, one.logical_bytes), "what was being saved was written to"
        assert one.digest == _native.crc64(seen)
        assert one.hold is not None
