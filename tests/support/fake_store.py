"""A store actor for tests of what stands above it: a dictionary, with faults that a test plans or a seed draws."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from penstock.actors.api import store
from penstock.actors.api.types import Shape
from penstock.actors.object_keys import object_keys
from penstock.runtime.errors import UnavailableError
from penstock.runtime.message import NOT_AT_ONCE
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec

UNKNOWN = store.Speed(0.0, 0.0, 0)
LOST = store.Loaded(store.LoadOutcome.MISSING)
PIECES = 3  # a load writes an object in so many steps, as a disk does


def payload(key: bytes, count: int) -> bytes:
    """What the object of this key holds: nothing else can be taken for it."""
    block = hashlib.sha256(key).digest()
    return (block * (count // len(block) + 1))[:count]


def digest_of(key: bytes) -> int:
    return int.from_bytes(key[:8], "little")


@dataclass
class StorePlan:
    """How a store behaves. Changed by a test at any moment."""

    locate_s: float = 0.001
    load_s: float = 0.002
    hangs_at_locate: bool = False
    hangs_at_measure: bool = False
    hangs_at_load: bool = False  # while it writes still: what is given up is written to much later
    has_at_hand: bool = True  # what it loads, if its actor is served at once
    reads_ahead: bool = False  # likewise: what a load is going to ask for
    loads_free: int | None = None  # loads beyond so many wait until they are released
    fails: bool = False  # every call
    loses: set[bytes] = field(default_factory=set)  # located, and missing when loaded
    skips: bool = False  # of a prefix, what lies behind those
    speed: store.Speed = UNKNOWN
    draw: random.Random | None = None  # faults by chance, when there is one
    fault_chance: float = 0.0


class FakeStore(store.StoreActor):
    inflight_max = 64

    def __init__(self, world: StoreWorld) -> None:
        self._world = world

    async def receive(self, msg: store.Message) -> object:
        world, plan = self._world, self._world.plan
        match msg:
            case store.Locate():
                world.located += len(msg.keys)
                await self._pause(plan.locate_s, hangs=plan.hangs_at_locate)
                return bytes(int(key in world.objects) for key in msg.keys)
            case store.Load():
                world.loads_ahead += msg.ahead is not None
                return await self._load(msg.targets, is_prefix=isinstance(msg, store.LoadPrefix))
            case store.MeasureSpeed():
                if plan.hangs_at_measure:
                    await anyio.sleep_forever()
                return plan.speed
            case _:
                raise AssertionError(msg)

    def receive_at_once(self, msg: store.Message) -> object:
        """As a store in memory: where nothing hangs or fails, it has what it has at hand."""
        world, plan = self._world, self._world.plan
        if plan.hangs_at_locate or plan.hangs_at_load or plan.fails or self._by_chance():
            return NOT_AT_ONCE
        match msg:
            case store.Locate():
                world.located += len(msg.keys)
                return bytes(int(key in world.objects) for key in msg.keys)
            case store.ReadAhead() if plan.reads_ahead:
                world.aheads.append([target.key for target in msg.targets])
                return store.Ahead()
            case store.Load() if plan.has_at_hand and msg.ahead is None:
                world.loads.append([target.key for target in msg.targets])
                return tuple([self._load_now(target) for target in msg.targets])
            case store.MeasureSpeed() if not plan.hangs_at_measure:
                return plan.speed
        return NOT_AT_ONCE

    async def _pause(self, seconds: float, *, hangs: bool) -> None:
        plan = self._world.plan
        if hangs:
            await anyio.sleep_forever()
        if plan.fails or self._by_chance():
            raise UnavailableError("the medium is gone")
        await anyio.sleep(seconds)

    def _by_chance(self) -> bool:
        plan = self._world.plan
        return plan.draw is not None and plan.draw.random() < plan.fault_chance

    async def _load(
        self, targets: Sequence[store.Target], *, is_prefix: bool
    ) -> tuple[store.Loaded, ...]:
        world, plan = self._world, self._world.plan
        world.loads.append([target.key for target in targets])
        if plan.hangs_at_load:
            # As a kernel's: it goes on when nobody waits for it any more.
            world.writers.append(asyncio.ensure_future(self._write_late(targets)))
            try:
                await anyio.sleep_forever()
            finally:
                world.given_up += 1
        if plan.loads_free is not None and len(world.loads) > plan.loads_free:
            await world.released.wait()
        await self._pause(plan.load_s, hangs=False)
        answers: list[store.Loaded] = []
        for target in targets:
            if plan.skips and is_prefix and LOST in answers:
                answers.append(store.Loaded(store.LoadOutcome.SKIPPED))
            else:
                answers.append(await self._load_one(target))
        return tuple(answers)

    async def _load_one(self, target: store.Target) -> store.Loaded:
        if self._is_lost(target):
            return store.Loaded(store.LoadOutcome.MISSING)
        await self._write(target)
        return self._whole(target)

    def _load_now(self, target: store.Target) -> store.Loaded:
        if self._is_lost(target):
            return store.Loaded(store.LoadOutcome.MISSING)
        target.payload[: target.logical_bytes] = payload(target.key, target.logical_bytes)
        return self._whole(target)

    def _is_lost(self, target: store.Target) -> bool:
        world = self._world
        assert len(target.payload) % 4096 == 0
        assert target.hold is not None
        is_there = target.key in world.objects and target.key not in world.plan.loses
        return not is_there or self._by_chance()

    def _whole(self, target: store.Target) -> store.Loaded:
        self._world.loaded.append(target.key)
        runs = digest_of(target.key).to_bytes(8, "little") * target.runs
        return store.Loaded(store.LoadOutcome.LOADED, digest_of(target.key), runs)

    async def _write(self, target: store.Target) -> None:
        whole = payload(target.key, target.logical_bytes)
        step = -(-len(whole) // PIECES)
        for start in range(0, len(whole), step):
            part = whole[start : start + step]
            target.payload[start : start + len(part)] = part
            await anyio.lowlevel.checkpoint()

    async def _write_late(self, targets: Sequence[store.Target]) -> None:
        await self._world.released.wait()
        for target in targets:
            await self._write(target)


class StoreWorld:
    """What a fake store holds over its lives, and what it was asked."""

    def __init__(self, name: str) -> None:
        self.plan = StorePlan()
        self.objects: set[bytes] = set()
        self.located = 0  # names that it was asked for
        self.given_up = 0  # loads that hung, until nobody waited any more
        self.loads: list[list[bytes]] = []  # keys of every Load
        self.aheads: list[list[bytes]] = []  # of every ReadAhead
        self.loads_ahead = 0  # Loads of what was read ahead
        self.loaded: list[bytes] = []
        self.writers: list[asyncio.Future[None]] = []  # hanging ones
        self.released = asyncio.Event()  # they go on
        self.ref: Ref[store.StoreActor] = Ref.to(
            store.StoreActor, f"store[{name}]", messages_max=256
        )
        self.spec = ChildSpec(self.ref, lambda: FakeStore(self), drain_s=0.1)

    def put(
        self, shape: Shape, keys: bytes, chunks: range, slots: Sequence[int] | None = None
    ) -> None:
        """Have the objects of these chunks of a prompt."""
        chosen = range(len(shape.slots)) if slots is None else slots
        for chunk in chunks:
            self.objects.update(object_keys(shape, keys[chunk * 32 : chunk * 32 + 32], chosen))

    def remove(self, shape: Shape, keys: bytes, chunks: range, slots: Sequence[int]) -> None:
        """Have them no more."""
        for chunk in chunks:
            gone = object_keys(shape, keys[chunk * 32 : chunk * 32 + 32], slots)
            self.objects.difference_update(gone)

    def lose(
        self, shape: Shape, keys: bytes, chunks: range, slots: Sequence[int] | None = None
    ) -> None:
        """Say that they are there, and then not have them."""
        chosen = range(len(shape.slots)) if slots is None else slots
        for chunk in chunks:
            self.plan.loses.update(object_keys(shape, keys[chunk * 32 : chunk * 32 + 32], chosen))
