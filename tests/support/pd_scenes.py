"""How a push ends in a simulated world, and that the next one works."""

from __future__ import annotations

from support.pd_world import PdWorld
from support.prefetch_world import Watched, prompt

from penstock.actors.api import pd


async def settled(
    world: PdWorld, watched: Watched, transfer: pd.TransferId | None
) -> pd.Sent | None:
    """Both sides know the end; then the ticket is closed, and nothing is left."""
    await world.b.wait_final(watched)
    if watched.hit:
        await world.b.read(watched)
    sent = None if transfer is None else await world.a.sent(transfer)
    world.validate()
    await world.b.close(watched)
    await world.assert_nothing_is_held()
    return sent


async def next_push_works(world: PdWorld) -> None:
    keys = prompt(3, "next")
    watched = await world.b.expect(keys, "next")
    await world.a.write(keys, range(3))
    transfer = await world.a.send(keys, "b", "next")
    assert await world.b.wait_final(watched) == 3
    assert await world.b.read(watched) == 3 * len(world.b.shape.slots)
    assert (await world.a.sent(transfer)).state is pd.SentState.COMMITTED
    await world.b.close(watched)
    await world.assert_nothing_is_held()
