"""Prompts go from the node that prefills them to the node that decodes them, while they are computed."""

from __future__ import annotations

import anyio
import pytest
from support.pd_world import PdWorld, PdWorldConfig, play
from support.prefetch_world import FULL, SHARDED, prompt

from penstock.actors.api import pd
from penstock.actors.api.types import GroupGeometry, Shortfall

SEEDS = pytest.mark.parametrize("seed", range(6))


@SEEDS
@pytest.mark.parametrize("groups", [FULL, SHARDED])
def test_a_prompt_is_pushed_while_it_is_computed_and_read_whole(
    seed: int, groups: tuple[GroupGeometry, ...]
) -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(6)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        for chunk in range(6):
            await world.a.write(keys, range(chunk, chunk + 1))
            await anyio.sleep(0.05)
        assert await world.b.wait_final(watched) == 6
        assert watched.shortfall is Shortfall.NONE
        assert len(watched.hits) > 1, "it came all at once"
        assert await world.b.read(watched) == 6 * len(world.b.shape.slots)
        sent = await world.a.sent(transfer)
        assert sent == pd.Sent(pd.SentState.COMMITTED, None, sent.bytes, 0)
        world.validate()
        await world.b.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, PdWorldConfig(groups=groups))
