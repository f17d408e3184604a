"""What the L1 manager tells the directory: that something changed, once; then what, exactly; nothing without peers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from unittest import mock

import anyio
import pytest
from support.declarations import OBJECT_BYTES
from support.directory_world import Node, chunk
from support.fake_actors import Fake, never

from penstock.actors.api import directory, l1, l1_contents
from penstock.actors.directory_config import DirectoryConfig
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import supervise

SEEDS = pytest.mark.parametrize("seed", range(4))
KEYS = [chunk(f"p/{number}") for number in range(30)]


class Told(Node):
    """An L1 manager, and in the place of the directory somebody who listens."""

    def __init__(self, *, changes_max: int = 64) -> None:
        super().__init__("a", 1, DirectoryConfig(), changes_max)
        self.listener = Fake(directory.Directory, "directory", {}, messages_max=4)
        self.directory = self.listener.ref

    @property
    def told(self) -> int:
        return len(self.listener.of(directory.Changed))

    async def take(self, chunks_max: int = 1000) -> l1_contents.ContentChanges:
        return await self.l1.ask(l1_contents.TakeChanges(chunks_max), within=1)

    async def walk(self, cursor: int = 0, chunks_max: int = 1000) -> l1_contents.Residents:
        return await self.l1.ask(l1_contents.ResidentKeys(cursor, chunks_max), within=1)


def play(seed: int, node: Told, scene: Callable[[Told], Awaitable[None]]) -> None:
    async def main() -> None:
        with mock.patch("penstock.actors.l1_manager.wait_readable", never):
            async with supervise(node.listener.spec, node.specs()[0]):
                await node.begin()
                await scene(node)

    simulate(seed, main)


@SEEDS
def test_the_directory_is_told_once_until_it_takes(seed: int) -> None:
    async def scene(node: Told) -> None:
        assert (await node.walk()).is_over
        await anyio.sleep(1)
        before = node.told
        await node.put(KEYS[:2])
        await node.put(KEYS[2:5])
        await anyio.sleep(1)
        assert node.told == before + 1
        taken = await node.take()
        assert {taken.added[at : at + 32] for at in range(0, len(taken.added), 32)} == {*KEYS[:5]}
        assert (taken.gone, taken.is_lost, taken.is_last) == (b"", False, True)
        await node.l1.ask(l1.Measure(), within=1)
        await anyio.sleep(1)
        assert node.told == before + 1, "nothing has changed since"
        await node.evict(1)
        await anyio.sleep(1)
        assert node.told == before + 2
        assert len((await node.take()).gone) == 32

    play(seed, Told(), scene)


@SEEDS
def test_one_who_falls_behind_is_told_so_and_begins_again(seed: int) -> None:
    async def scene(node: Told) -> None:
        assert (await node.take()).is_lost, "nobody has begun"
        await node.put(KEYS[:10])
        step = await node.walk(chunks_max=4)
        assert (len(step.keys) // 32, step.is_over, step.chunks) == (4, False, 10)
        await node.evict(10)
        await node.put(KEYS[10:])
        with pytest.raises(l1_contents.Interrupted):
            await node.walk(step.cursor)
        assert (await node.take()).is_lost
        step = await node.walk()
        assert (len(step.keys) // 32, step.is_over) == (20, True)
        taken = await node.take()
        assert (taken.added, taken.gone, taken.is_lost) == (b"", b"", False)

    play(seed, Told(changes_max=3), scene)


@SEEDS
def test_what_is_only_on_its_way_through_l1_is_told_to_nobody(seed: int) -> None:
    """A table that keeps no changes: staging, whose lookups hit nothing in L1."""

    async def scene(node: Told) -> None:
        await node.put(KEYS[:3])
        step, taken = await node.walk(), await node.take()
        assert (step.keys, step.is_over) == (b"", True)
        assert (taken.added, taken.gone, taken.is_lost, taken.is_last) == (b"", b"", False, True)
        await anyio.sleep(1)
        assert node.told == 0
        assert node.table.statistics().bytes_resident == 3 * OBJECT_BYTES

    play(seed, Told(changes_max=0), scene)
