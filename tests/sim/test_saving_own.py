"""A tenant at its quota gives up its own: saved before, where a store wants what leaves L1."""

from __future__ import annotations

import pytest
from support.saving_world import PAGE, SavingConfig, SavingWorld, play, prompt

from penstock.actors.api import eviction
from penstock.actors.core.write_policy import Moment
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(8))
SMALL, SMALLS_NUMBER = b"small", 0  # who comes first has the first number


@SEEDS
def test_d6_what_a_tenant_gives_up_for_its_quota_is_saved_first(seed: int) -> None:
    """D6, B17: of its own, those idle longest; nobody else's leave, or are saved."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        await world.put(prompt(1, "opens the account"), salt=SMALL)
        world.table.set_quota(SMALLS_NUMBER, 9 * PAGE)
        await world.put(prompt(8, "others"), salt=b"large")
        own, later = prompt(4, "own"), prompt(4, "later")
        await world.put(own, salt=SMALL)
        await world.put(later, salt=SMALL)
        ask = eviction.MakeRoom(4 * PAGE, SMALL)
        assert await world.eviction.ask(ask, within=10) == 4 * PAGE
        assert world.resident(own) == 0
        assert world.has(0, own)
        assert len(world.stores[0].objects) == 4
        assert world.resident(later) == 4
        assert world.resident(prompt(8, "others")) == 8
        await world.put(prompt(4, "next"), salt=SMALL)
        assert int(world.telemetry.value("penstock_evicted_unsaved_chunks_total") or 0) == 0

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))
