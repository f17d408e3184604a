"""Members that come, go and move, and a source of members that is down: which links there are then (C7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from support.cluster import LINK_WITHIN_S, Member, Plan, all_linked, member
from support.eventually import eventually
from support.media import Prompt, find, put

from penstock.actors import node_peers
from penstock.actors.api import peers
from penstock.protos import engine_pb2 as pb
from penstock.runtime.membership import Member as Known
from penstock.runtime.membership import Roll

pytestmark = pytest.mark.anyio


class Source(Roll):
    """A source of members that a test speaks for."""

    def __init__(self, my_id: str) -> None:
        super().__init__(my_id, members_max=16)
        self.announced: list[Known] = []

    async def announce(self, me: Known) -> None:
        self.announced.append(me)

    async def aclose(self) -> None:
        """Nothing was told to anybody."""


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """Of each node, by its id, once it has begun."""
    made: dict[str, Source] = {}

    def open_source(_: object, my_id: str, __: object) -> AbstractAsyncContextManager[Source]:
        @asynccontextmanager
        async def entered() -> AsyncIterator[Source]:
            yield made.setdefault(my_id, Source(my_id))

        return entered()

    monkeypatch.setattr(node_peers, "open_membership", open_source)
    return made


def known(plan: Plan, *names: str) -> dict[str, Known]:
    return {name: Known(name, f"127.0.0.1:{plan.ports[name]}") for name in names}


async def linked_to(one: Member, *names: str) -> None:
    async def is_so() -> bool:
        return await one.linked() == {*names}

    await eventually(is_so, within=LINK_WITHIN_S, what=f"{one.name} is linked to {names}")


async def test_members_are_dialled_as_they_come_and_left_when_they_have_gone(
    sources: dict[str, Source],
) -> None:
    """C7: who is taken away by the source and still there is served by; when its link is over it is dialled no more."""
    plan, prompt = Plan.of("a", "b"), Prompt.made("a", 4)
    async with member(plan, "b") as other:
        async with member(plan, "a") as one:
            assert (await one.usage()).peers == ()
            (me,) = sources["a"].announced
            assert (me.node_id, me.address) == ("a", f"127.0.0.1:{plan.ports['a']}")
            assert me.boot == one.node.epoch
            sources["b"].know(known(plan, "a", "b"))
            await linked_to(other, "a")
            assert await one.linked() == set(), "nobody has told it of b"
            await put(one.engine, prompt)
            await other.knows(prompt.keys, of="a")
            sources["b"].know({})
            assert (await find(other.engine, prompt)).bodies == prompt.bodies

        async def is_gone() -> bool:
            return not (await other.usage()).peers and not await other.promises(prompt.keys)

        await eventually(is_gone, within=LINK_WITHIN_S, what="it is gone")
        ref = other.node._cluster.peers
        assert ref is not None
        with pytest.raises(peers.PeerAway, match="no member"):
            await ref.ask(peers.FindLink("a"), within=5)


async def test_a_member_that_has_moved_is_dialled_where_it_is_now(
    sources: dict[str, Source],
) -> None:
    plan, nowhere = Plan.of("a", "b"), Plan.of("a")
    async with member(plan, "a"), member(plan, "b") as other:
        sources["b"].know(known(nowhere, "a"))

        async def is_told() -> bool:
            details = [one.detail for one in (await other.usage()).peers]
            return any("refused" in one or "Failed to connect" in one for one in details)

        await eventually(is_told, within=LINK_WITHIN_S, what="nobody is there")
        sources["b"].know(known(plan, "a"))
        await linked_to(other, "a")


async def test_who_answers_to_another_name_is_not_taken_for_the_member(
    sources: dict[str, Source],
) -> None:
    """D4: the source says that c is where a is."""
    plan = Plan.of("a", "b")
    async with member(plan, "a"), member(plan, "b") as other:
        sources["b"].know({"c": Known("c", f"127.0.0.1:{plan.ports['a']}")})

        async def is_told() -> bool:
            details = [one.detail for one in (await other.usage()).peers]
            return any("this is a, and not c" in one for one in details)

        await eventually(is_told, within=LINK_WITHIN_S, what="it says who it is")
        assert await other.linked() == set()


async def test_c7_a_source_that_is_down_takes_no_link_away(sources: dict[str, Source]) -> None:
    """C7: health says that it is, and what is wrong; what peers have is served as before."""
    plan, prompt = Plan.of("a", "b"), Prompt.made("a", 4)
    async with member(plan, "a") as one, member(plan, "b") as other:
        for source in sources.values():
            source.know(known(plan, "a", "b"))
        await all_linked([one, other])
        sources["b"].degrade("etcd does not answer")
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        assert (await find(other.engine, prompt)).bodies == prompt.bodies

        async def is_told() -> bool:
            parts = (await other.health()).parts
            part = next(part for part in parts if part.name == "peers")
            is_degraded = part.state == pb.HEALTH_STATE_DEGRADED
            return is_degraded and "membership: etcd does not answer" in part.detail

        await eventually(is_told, within=LINK_WITHIN_S, what="it is told")
        sources["b"].degrade("")

        async def is_well() -> bool:
            return (await other.health()).state == pb.HEALTH_STATE_SERVING

        await eventually(is_well, within=LINK_WITHIN_S, what="all is well")
