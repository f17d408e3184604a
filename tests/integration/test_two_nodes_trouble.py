"""Nodes that stand still, actors that die, a source of members that is gone: what that costs the others, and for how
long."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.cluster import LINK_WITHIN_S, Member, Plan, all_linked, cluster, member, served_member
from support.declarations import OBJECT_BYTES, hello
from support.eventually import eventually
from support.media import Prompt, find, put
from support.nodes import nobody_reads
from support.raw_engine import attached, extents_of

from penstock.actors.api import directory, peers
from penstock.protos import engine_pb2 as pb
from penstock.runtime.mailbox import Mailbox
from penstock.runtime.message import Envelope

pytestmark = pytest.mark.anyio


async def away(one: Member, node_id: str) -> None:
    async def is_away() -> bool:
        return node_id not in await one.linked()

    await eventually(is_away, within=LINK_WITHIN_S, what=f"{node_id} is away")


async def test_b1_a_node_that_stands_still_costs_what_only_it_has(tmp_path: Path) -> None:
    """B1, B11: stopped by a signal, it holds its connections open and says nothing. What it promised is a miss in the
    time of one read; its link is lost after three heartbeats; it is linked again when it goes on."""
    plan, prompt, own = Plan.of("a", "b"), Prompt.made("a", 6), Prompt.made("own", 6)
    stores = [{"name": "others", "type": "peer", "read_within": "500ms"}]
    async with member(plan, "b", stores=stores) as other:
        with served_member(plan, "a", tmp_path / "a") as node:
            async with attached(node.address, hello()) as writer:
                await put(writer, prompt)
                await other.knows(prompt.keys, of="a")
                os.kill(node.process.pid, signal.SIGSTOP)
                with anyio.fail_after(5):
                    assert (await find(other.engine, prompt)).hit_chunks < 6
                await put(other.engine, own)
                assert (await find(other.engine, own)).bodies == own.bodies
                await away(other, "a")
                os.kill(node.process.pid, signal.SIGCONT)
                await other.knows(prompt.keys, of="a")

                async def is_served() -> bool:  # once it is trusted again
                    return (await find(other.engine, prompt)).bodies == prompt.bodies

                await eventually(is_served, within=LINK_WITHIN_S, what="it serves again")
            await nobody_reads(other.node)


async def test_a8_a_node_hears_that_it_gave_damaged_bytes_and_drops_them() -> None:
    """A8: a byte of one object has changed in the owner's memory. It is refused, told with the next read, and gone
    from its owner, for all; what is whole is served on."""
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b") as (one, other):
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        found = (await one.engine.lookup(prompt.keys)).lookup
        lease = (await one.engine.acquire(found.ticket)).acquired
        third = extents_of(lease.extents)[3]
        assert one.engine.arena is not None
        one.engine.arena.view(third.offset, 1)[0] ^= 1
        await one.engine.release(lease.lease)
        await one.engine.ask(cancel=pb.Cancel(ticket=found.ticket))
        labels = {"peer": "b", "outcome": "damaged"}

        async def is_dropped() -> bool:
            assert (await find(other.engine, prompt)).hit_chunks <= 3
            return one.value("penstock_peer_doubted_objects_total", **labels) == 1

        await eventually(is_dropped, within=LINK_WITHIN_S, what="its owner has dropped it")
        usage = await one.node.usage()
        assert (usage.damaged_objects, usage.resident_bytes) == (1, 5 * OBJECT_BYTES)
        assert (await find(other.engine, prompt)).bodies == prompt.bodies[:3]
        await nobody_reads(one.node)
        await nobody_reads(other.node)


BREAKS: dict[str, Any] = {
    "peers": object(),
    "directory": directory.PeerUpdate("x", b"e" * 16, None),  # type: ignore[arg-type]
}
"""What no actor of this name can live with."""


def crash(mailbox: Mailbox, message: Any) -> None:
    mailbox.put_nowait(Envelope(message, float("inf"), None))


@pytest.mark.parametrize("name", ["peers", "directory"])
async def test_b12_an_actor_of_the_cluster_that_dies_comes_back_with_all_it_knew(name: str) -> None:
    """B12: links and what peers have are there again, without anybody's doing; both nodes go on serving meanwhile."""
    prompt, own = Prompt.made("a", 6), Prompt.made("own", 6)
    async with cluster("a", "b") as (one, other):
        await put(one.engine, prompt)
        await put(other.engine, own)
        await other.knows(prompt.keys, of="a")
        for node in (one, other):
            ref: Any = getattr(node.node._cluster, name)
            crash(ref.mailbox, BREAKS[name])

        async def are_restarted() -> bool:
            parts = [part for node in (one, other) for part in (await node.health()).parts]
            return [part.restarts for part in parts if part.name == name] == [1, 1]

        await eventually(are_restarted, within=LINK_WITHIN_S, what="both were restarted")
        assert (await find(other.engine, own)).bodies == own.bodies
        await all_linked([one, other])
        await other.knows(prompt.keys, of="a")
        assert (await find(other.engine, prompt)).bodies == prompt.bodies
        await one.knows(own.keys, of="b")
        for node in (one, other):
            await nobody_reads(node.node)


async def test_c1_a_node_that_stops_in_order_says_so() -> None:
    """Its links end at once, and not after three heartbeats; what it had is promised no more."""
    plan, prompt = Plan.of("a", "b"), Prompt.made("a", 6)
    slow = {"heartbeat": "5s"}
    async with member(plan, "b", cluster=slow) as other:
        async with member(plan, "a", cluster=slow) as one:
            await all_linked([one, other])
            await put(one.engine, prompt)
            await other.knows(prompt.keys, of="a")
        with anyio.fail_after(3):
            await away(other, "a")
        assert not await other.promises(prompt.keys)


async def test_links_are_one_for_each_way_and_no_more() -> None:
    """Each dials the other, and nobody itself, though all have the same list."""
    async with cluster("a", "b", "c") as members:
        for one in members:
            usage = await one.usage()
            names = {"a", "b", "c"} - {one.name}
            assert {peer.node_id for peer in usage.peers} == names
            assert [peer.serves for peer in usage.peers] == [1, 1]
            assert all(peer.state is peers.PeerState.LINKED for peer in usage.peers)
