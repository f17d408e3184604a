"""Two and more nodes on loopback: what one has in L1 is served at the other, bit by bit the same, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest
from support.cluster import LINK_WITHIN_S, Member, Plan, all_linked, cluster, member, served_member
from support.declarations import OBJECT_BYTES, group, hello
from support.eventually import eventually, eventually_sync
from support.media import Prompt, find, put
from support.nodes import ServedNode, nobody_reads
from support.raw_engine import attached
from support.stored_node import purge

from penstock.actors.api import peers
from penstock.protos import engine_pb2 as pb
from penstock.runtime.nixl_agent import INSTALL
from penstock.runtime.units import MIB

pytestmark = pytest.mark.anyio

BIG_TOKENS = 64 * 1024  # of one object: a chunk of 1 MiB


@pytest.fixture(params=["tcp", "grpc", "nixl"])
def channels(request: pytest.FixtureRequest) -> dict[str, object]:
    if request.param == "nixl" and find_spec("nixl_cu13") is None:
        pytest.skip(f"the library of nixl is missing: {INSTALL}")
    if request.param == "nixl":  # loaded by a node when it starts: that is no step of ours
        for name in ("nixl_cu13", "penstock.runtime.nixl_channel"):
            import_module(name)
    return {"kinds": [request.param]}


@pytest.fixture(scope="module")
def large() -> Prompt:
    """24 MiB."""
    return Prompt.made("large", 24, object_bytes=16 * BIG_TOKENS)


async def is_nobodys(*members: Member) -> None:
    """No lease is left."""
    for one in members:
        await nobody_reads(one.node)


async def test_what_one_node_has_is_served_at_another(channels: dict[str, object]) -> None:
    """Bit by bit the same, with its digests; counted on both sides; not kept."""
    prompt = Prompt.made("a", 20)
    async with cluster("a", "b", cluster={"channels": channels}) as (one, other):
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        found = await find(other.engine, prompt)
        assert found.bodies == prompt.bodies
        await is_nobodys(one, other)
        assert (await other.node.usage()).resident_bytes == 0
        size = float(20 * OBJECT_BYTES)
        assert other.value("penstock_peer_read_bytes_total", peer="a") == size
        assert one.value("penstock_peer_served_bytes_total", peer="b") == size
        assert one.value("penstock_peer_served_objects_total", peer="b", outcome="sent") == 20
        kinds = {told.channel.value for told in (await other.usage()).peers if told.channel}
        assert [*kinds] == channels["kinds"]


async def test_what_is_read_stays_if_that_is_wanted() -> None:
    prompt = Prompt.made("a", 6)
    stores = [{"name": "others", "type": "peer", "write_back": True}]
    async with cluster("a", "b", stores=stores) as (one, other):
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        assert (await find(other.engine, prompt)).bodies == prompt.bodies
        assert (await other.node.usage()).resident_bytes == 6 * OBJECT_BYTES
        await one.knows(prompt.keys, of="b")


async def test_three_nodes_give_each_what_they_have() -> None:
    """A prompt that one node has the begin of, and another one all; and one that each has a part of."""
    prompt, parted = Prompt.made("a", 20), Prompt.made("b", 20)
    async with cluster("a", "b", "c") as (a, b, c):
        await put(a.engine, Prompt(prompt.keys[: 8 * 32], prompt.bodies[:8]))
        await put(b.engine, prompt)
        await put(a.engine, Prompt(parted.keys[: 12 * 32], parted.bodies[:12]))
        await put(c.engine, parted)
        await c.knows(prompt.keys, of="b")
        await b.knows(parted.keys, of="c")
        assert (await find(c.engine, prompt)).bodies == prompt.bodies
        assert (await find(b.engine, parted)).bodies == parted.bodies
        await is_nobodys(a, b, c)


async def test_another_tenant_and_another_model_find_nothing() -> None:
    """A12, A13: what a peer has is found under the same keys, in the same namespace, or not at all."""
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b") as (one, other):
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        stranger = hello(weights="f" * 40)
        async with attached(other.node.address, stranger) as engine:
            assert (await find(engine, prompt)).hit_chunks == 0
        assert (await find(other.engine, prompt)).hit_chunks == 6


async def test_what_has_left_l1_is_a_miss_and_soon_promised_no_more() -> None:
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b") as (one, other):
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        await purge(one.node)
        assert (await find(other.engine, prompt)).hit_chunks == 0

        async def is_told() -> bool:
            return not await other.promises(prompt.keys)

        await eventually(is_told, within=LINK_WITHIN_S, what="nothing is promised")


async def test_a15_a_restarted_node_is_another_one() -> None:
    """A15, C1: its links are made anew, what it promised is forgotten, and what it stores then is served."""
    prompt, later = Prompt.made("a", 6), Prompt.made("later", 6)
    plan = Plan.of("a", "b")
    async with member(plan, "b") as other:
        async with member(plan, "a") as one:
            await all_linked([one, other])
            await put(one.engine, prompt)
            await other.knows(prompt.keys, of="a")
            (told,) = (await other.usage()).peers

        async def is_away() -> bool:
            (now,) = (await other.usage()).peers
            return now.state is peers.PeerState.DIALLING

        await eventually(is_away, within=LINK_WITHIN_S, what="it is away")
        assert (await find(other.engine, prompt)).hit_chunks == 0
        async with member(plan, "a") as one:
            await all_linked([one, other])
            (again,) = (await other.usage()).peers
            assert again.epoch not in {told.epoch, b""}
            assert (await find(other.engine, prompt)).hit_chunks == 0
            await put(one.engine, later)
            await other.knows(later.keys, of="a")
            assert (await find(other.engine, later)).bodies == later.bodies
        await is_nobodys(other)


async def test_c8_a_lost_data_connection_is_made_anew(channels: dict[str, object]) -> None:
    """C8: the link goes with it, and the next one serves."""
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b", cluster={"channels": channels}) as (one, other):
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        ref = other.node._cluster.peers
        assert ref is not None
        link = await ref.ask(peers.FindLink("a"), within=5)
        await link.connection.aclose()
        with anyio.fail_after(5):
            await link.wait_lost()
        await all_linked([one, other])
        await other.knows(prompt.keys, of="a")
        assert (await find(other.engine, prompt)).bodies == prompt.bodies
        await is_nobodys(one, other)


async def test_c8_a_node_is_killed_in_the_middle_of_a_read(
    channels: dict[str, object], tmp_path: Path, large: Prompt
) -> None:
    """C8: kill -9 while 24 MiB come from it: that prefix is cut where it was, soon; nothing is held for it; and the
    next request works, here and with who takes its place."""
    plan = Plan.of("a", "b")
    given = {"cluster": {"channels": channels}, "l1__bytes": 64 * MIB}
    big = [group(token_bytes=BIG_TOKENS)]
    own = Prompt.made("own", 4)
    async with member(plan, "b", **given) as other:
        with served_member(plan, "a", tmp_path / "a", **given) as node:
            async with (
                attached(node.address, hello(groups=big)) as writer,
                attached(other.node.address, hello(groups=big)) as reader,
            ):
                for chunks in range(1, 25):  # in steps: it is our own loop
                    await put(writer, Prompt(large.keys[: chunks * 32], large.bodies[:chunks]))
                await other.knows(large.keys, of="a")
                lookup = pb.Lookup(prompt=large.wire(), readers=1, load_ms=8000)
                found = (await reader.ask(lookup=lookup)).lookup
                assert not found.final
                await reader.wait_progress(1)
                node.kill()
                with anyio.fail_after(6):
                    last = await reader.last_progress(found.ticket)
                assert 0 < last.hit_chunks <= 24
                await reader.ask(cancel=pb.Cancel(ticket=found.ticket))
        await put(other.engine, own)
        assert (await find(other.engine, own)).bodies == own.bodies
        await is_nobodys(other)
        with served_member(plan, "a", tmp_path / "a2", **given) as node:
            async with attached(node.address, hello()) as writer:
                again = Prompt.made("again", 6)
                await put(writer, again)
                await other.knows(again.keys, of="a")
                assert (await find(other.engine, again)).bodies == again.bodies


async def test_health_and_numbers_tell_of_peers() -> None:
    """B1: who is away is told, and why; it costs nobody else anything."""
    plan = Plan.of("a", "b", "c")
    async with member(plan, "a") as one, member(plan, "b") as other:

        async def are_linked() -> bool:
            return "b" in await one.linked() and "a" in await other.linked()

        await eventually(are_linked, within=LINK_WITHIN_S, what="a and b are linked")
        health = await one.health()
        part = next(part for part in health.parts if part.name == "peers")
        assert part.state == pb.HEALTH_STATE_DEGRADED
        assert "1 of 2 peers away: c (" in part.detail
        assert one.value("penstock_peers_linked") == 1
        assert one.value("penstock_peers_members") == 2


def test_status_shows_peers(tmp_path: Path) -> None:
    plan = Plan.of("a", "b")

    def status(node: ServedNode, *words: str) -> str:
        command = [sys.executable, "-m", "penstock.actors.cli.main", "status", *words]
        command += ["--address", node.address]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
        return shown.stdout

    with (
        served_member(plan, "a", tmp_path / "a") as one,
        served_member(plan, "b", tmp_path / "b") as other,
    ):
        for node, name in ((one, "b"), (other, "a")):
            health = partial(node.health)
            eventually_sync(
                lambda health=health: health().state == pb.HEALTH_STATE_SERVING,
                within=LINK_WITHIN_S,
                what="all are linked",
            )
            shown = status(node)
            assert "linked to 1 of 1 peers" in shown
            assert f"  {name} " in shown
            assert "linked by tcp" in shown
            told = json.loads(status(node, "--json"))["cluster"]
            assert [peer["linked"] for peer in told["peers"]] == [True]
        other.kill()
        eventually_sync(
            lambda: "1 of 1 peers away: b (" in status(one), within=LINK_WITHIN_S, what="b is away"
        )
