"""What a cancelled actor held in closures is let go of at once: leases end with their last holder."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg
from penstock.runtime.ref import Ref, gather_asks
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import ChildSpec, supervise

SEEDS = pytest.mark.parametrize("seed", range(5))


class Held:
    """What an actor holds, such as a lease."""


@dataclass(frozen=True, slots=True)
class Wait(Msg["Holder", None]):
    """Wait for ever, and hold something meanwhile."""


class Holder(Actor[Wait]):
    """Holds something in work beside the messages and, when asked to wait, in a handler."""

    inflight_max = 4

    def __init__(self, held: list[weakref.ref[Held]]) -> None:
        self._held = held

    async def on_start(self) -> None:
        self.start_soon(self._holding())

    async def receive(self, msg: Wait) -> object:
        return await self._holding()()

    def _holding(self) -> Callable[[], Coroutine[Any, Any, None]]:
        held = Held()
        self._held.append(weakref.ref(held))

        async def wait() -> None:
            await anyio.sleep_forever()
            assert held

        async def work() -> None:
            await wait()

        return work


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@SEEDS
def test_what_closures_held_is_gone_with_the_actor(seed: int) -> None:
    """Seen to fail while the frames of a cancellation were cleared and kept: they hold their functions."""
    held: list[weakref.ref[Held]] = []

    async def main() -> None:
        ref = Ref.to(Holder, "holder", messages_max=4)

        async def ask() -> None:
            await gather_asks([ref.ask(Wait(), within=1000)])

        async with anyio.create_task_group() as group:
            async with supervise(ChildSpec(ref, lambda: Holder(held), drain_s=1)):
                group.start_soon(ask)
                group.start_soon(ask)
                await anyio.sleep(1)
        assert [one() is None for one in held] == [True] * 3

    simulate(seed, main)


@SEEDS
def test_what_a_handlers_closure_held_is_gone_when_its_asker_gives_up(seed: int) -> None:
    held: list[weakref.ref[Held]] = []

    async def main() -> None:
        ref = Ref.to(Holder, "holder", messages_max=4)
        async with supervise(ChildSpec(ref, lambda: Holder(held), drain_s=1)):
            await gather_asks([ref.ask(Wait(), within=2)])
            await anyio.sleep(1)
            assert [one() is None for one in held] == [False, True]

    simulate(seed, main)
