"""Real nodes that tell each other what they have, over real links."""

from __future__ import annotations

import pytest
from support.cluster import Member, Plan, all_linked, cluster, member
from support.eventually import eventually
from support.media import Prompt, put

from penstock.actors.api import directory, eviction
from penstock.runtime.errors import ActorCrashed

pytestmark = pytest.mark.anyio

WITHIN_S = 10.0


async def forgets(one: Member, keys: bytes) -> None:
    async def does() -> bool:
        return not await one.promises(keys)

    await eventually(does, within=WITHIN_S, what=f"{one.name} promises none of it")


async def purge(one: Member) -> None:
    await one.node._refs.eviction.ask(eviction.Purge(), within=5)


async def test_what_a_node_has_all_others_know_until_it_has_it_no_more() -> None:
    prompt = Prompt.made("p", 12)
    async with cluster("a", "b", "c") as members:
        one, *others = members
        await put(one.engine, prompt)
        for other in others:
            await other.knows(prompt.keys, of="a")
            assert other.value("penstock_directory_peers") == 2
            assert other.value("penstock_directory_peers_chunks") == 12
        assert await one.promises(prompt.keys) == {}
        assert one.value("penstock_directory_watchers") == 2
        await purge(one)
        for other in others:
            await forgets(other, prompt.keys)
            assert other.value("penstock_directory_peers_chunks") == 0
            assert other.value("penstock_directory_updates_total", outcome="resync") == 0


async def test_a_directory_that_crashes_learns_and_tells_all_anew() -> None:
    """Both ways: what its node has, and what the others do."""
    mine, theirs = Prompt.made("mine", 5), Prompt.made("theirs", 7)
    async with cluster("a", "b") as (one, other):
        await put(one.engine, mine)
        await put(other.engine, theirs)
        await one.knows(theirs.keys, of="b")
        await other.knows(mine.keys, of="a")
        ref = one.node._cluster.directory
        assert ref is not None
        with pytest.raises(ActorCrashed):
            await ref.ask(directory.PeerUpdate("b", b"", None), within=5)  # type: ignore[arg-type]

        async def is_back() -> bool:
            try:
                return (await ref.ask(directory.Measure(), within=5)).watchers == 1
            except ActorCrashed:
                return False

        await eventually(is_back, within=WITHIN_S, what="its next life is watched")
        await one.knows(theirs.keys, of="b")
        more = Prompt.made("more", 3)
        await put(one.engine, more)
        await other.knows(more.keys, of="a")
        await other.knows(mine.keys, of="a")


async def test_a_node_that_is_gone_promises_nothing_and_neither_does_its_next_life() -> None:
    """B9: what was true of its former life is forgotten with it."""
    prompt = Prompt.made("p", 6)
    plan = Plan.of("a", "b")
    async with member(plan, "b") as other:
        async with member(plan, "a") as one:
            await all_linked([one, other])
            await put(one.engine, prompt)
            await other.knows(prompt.keys, of="a")
        await forgets(other, prompt.keys)
        async with member(plan, "a") as again:
            await all_linked([again, other])
            new = Prompt.made("new", 2)
            await put(again.engine, new)
            await other.knows(new.keys, of="a")
            assert await other.promises(prompt.keys) == {}
