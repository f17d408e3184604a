"""A cluster as its operators meet it: how all nodes are, where a prompt is, and its removal. One node is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import grpc
import pytest
from support.cluster import LINK_WITHIN_S, Member, Plan, cluster, member, served_member
from support.declarations import OBJECT_BYTES
from support.eventually import eventually
from support.media import Prompt, find, put
from support.nodes import local_node, nobody_reads
from support.raw_engine import channel_to

from penstock import __version__
from penstock.protos import control_pb2 as pb
from penstock.protos import control_pb2_grpc
from penstock.protos.engine_pb2 import Cancel
from penstock.protos.fleet_pb2 import ChunksRequest

pytestmark = pytest.mark.anyio

DIGEST = bytes(32)  # of no namespace


@asynccontextmanager
async def operated(one: Member) -> AsyncIterator[control_pb2_grpc.ControlAsyncStub]:
    async with channel_to(one.node.address) as channel:
        yield control_pb2_grpc.ControlStub(channel)


def digest_of(one: Member) -> bytes:
    """Of the namespace that the engines of all are attached with."""
    assert one.engine.welcome is not None
    return one.engine.welcome.namespace_digest


def chunks(one: Member, prompt: Prompt) -> ChunksRequest:
    return ChunksRequest(namespace_digest=digest_of(one), chunk_keys=prompt.keys)


async def held(one: Member, prompt: Prompt) -> dict[str, tuple[int, int]]:
    """Chunks that each node has, and that it is said to have at the one that is asked."""
    async with operated(one) as control:
        reply = await control.Where(pb.WhereRequest(prompt=chunks(one, prompt)), timeout=10)
    assert not any(told.problem for told in reply.nodes)
    return {told.node_id: (told.held.hit_chunks, told.promised_chunks) for told in reply.nodes}


async def linked_to(one: Member, *others: str) -> None:
    """Wait until it has links to these, and to nobody else."""

    async def is_so() -> bool:
        return await one.linked() == set(others)

    await eventually(is_so, within=LINK_WITHIN_S, what=f"{one.name} is linked to {others}")


async def test_all_nodes_describe_themselves_to_one() -> None:
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b", "c") as (a, b, c):
        await put(b.engine, prompt)
        await find(b.engine, prompt)
        async with operated(a) as control:
            reply = await control.Nodes(pb.NodesRequest(), timeout=10)
            links = await control.Cluster(pb.ClusterRequest(), timeout=10)
        assert [one.node_id for one in reply.nodes] == ["a", "b", "c"]
        assert {one.description.health for one in reply.nodes} == {"serving"}
        assert {one.description.version for one in reply.nodes} == {__version__}
        at_b = reply.nodes[1].description
        assert (at_b.resident_bytes, at_b.chunks, at_b.hit_chunks) == (6 * OBJECT_BYTES, 6, 6)
        assert reply.nodes[2].description.resident_bytes == 0
        assert all(one.linked and one.linked_ms < 60_000 for one in links.peers)
        await nobody_reads(c.node)


async def test_where_a_prompt_is_by_memory_and_by_what_was_told() -> None:
    """A part at one, all at another, nothing at the third; and nothing is touched or brought by asking."""
    prompt = Prompt.made("a", 9)
    part = Prompt(prompt.keys[: 4 * 32], prompt.bodies[:4])
    async with cluster("a", "b", "c") as (a, b, c):
        await put(a.engine, part)
        await put(b.engine, prompt)
        await c.knows(prompt.keys, of="b")
        await c.knows(part.keys, of="a")
        assert await held(c, prompt) == {"c": (0, 0), "a": (4, 4), "b": (9, 9)}
        assert (await c.node.usage()).resident_bytes == 0
        assert (await b.node.usage()).lookups == 0
        assert await held(c, Prompt.made("another", 3)) == {"c": (0, 0), "a": (0, 0), "b": (0, 0)}


async def test_a_prompt_is_evicted_where_it_is_wanted() -> None:
    """At one node, then at all; what another prompt shares with it goes with it, and its own rest stays."""
    prompt, other = Prompt.made("a", 6), Prompt.made("b", 5)
    async with cluster("a", "b") as (a, b):
        for one in (a, b):
            await put(one.engine, prompt)
        await put(b.engine, other)
        async with operated(a) as control:
            ask = pb.EvictRequest(prompt=chunks(a, prompt), node_ids=["b"])
            (at_b,) = (await control.Evict(ask, timeout=10)).nodes
            assert (at_b.node_id, at_b.evicted.chunks) == ("b", 6)
            assert (at_b.evicted.bytes, at_b.evicted.left_chunks) == (6 * OBJECT_BYTES, 0)
            assert {one: told[0] for one, told in (await held(a, prompt)).items()} == {
                "a": 6,
                "b": 0,
            }
            everywhere = await control.Evict(pb.EvictRequest(prompt=chunks(a, prompt)), timeout=10)
            assert [(one.node_id, one.evicted.chunks) for one in everywhere.nodes] == [
                ("a", 6),
                ("b", 0),
            ]
        assert (await b.node.usage()).resident_bytes == 5 * OBJECT_BYTES
        assert (await find(b.engine, other)).bodies == other.bodies


async def test_what_somebody_reads_is_not_evicted() -> None:
    """A1: a ticket's chunks stay until it is over; the answer says how many are held."""
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b") as (a, b):
        await put(b.engine, prompt)
        ticket = (await b.engine.lookup(prompt.keys[: 3 * 32])).lookup.ticket
        async with operated(a) as control:
            ask = pb.EvictRequest(prompt=chunks(a, prompt), node_ids=["b"])
            (told,) = (await control.Evict(ask, timeout=10)).nodes
            assert (told.evicted.chunks, told.evicted.left_chunks) == (3, 3)
            await b.engine.ask(cancel=Cancel(ticket=ticket))
            (told,) = (await control.Evict(ask, timeout=10)).nodes
            assert (told.evicted.chunks, told.evicted.left_chunks) == (3, 0)


async def test_a_node_that_is_away_costs_its_own_line() -> None:
    prompt = Prompt.made("a", 3)
    plan = Plan.of("a", "b", "c")
    async with member(plan, "a") as a, member(plan, "b") as b:
        await put(b.engine, prompt)
        await linked_to(a, "b")
        with anyio.fail_after(5):
            async with operated(a) as control:
                reply = await control.Where(pb.WhereRequest(prompt=chunks(a, prompt)), timeout=10)
        found = {one.node_id: one for one in reply.nodes}
        assert found["b"].held.hit_chunks == 3
        assert "no link to c" in found["c"].problem
        assert not found["c"].HasField("held")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.EvictRequest(prompt=ChunksRequest(namespace_digest=b"x")), "a digest has 32 bytes"),
        (
            pb.EvictRequest(prompt=ChunksRequest(namespace_digest=DIGEST, chunk_keys=b"x")),
            "a key has 32 bytes",
        ),
        (
            pb.EvictRequest(
                prompt=ChunksRequest(namespace_digest=DIGEST, chunk_keys=bytes(32 * 65))
            ),
            "65 chunks, the bound is 64",
        ),
        (
            pb.EvictRequest(prompt=ChunksRequest(namespace_digest=DIGEST), node_ids=["z"]),
            "'z' is no member",
        ),
    ],
)
async def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(
    request_: pb.EvictRequest, words: str
) -> None:
    async with member(Plan.of("a", "b"), "a", gateway__chunks_max=64) as a, operated(a) as control:
        with pytest.raises(grpc.aio.AioRpcError, match=words) as refusal:
            await control.Evict(request_, timeout=10)
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_node_that_stands_alone_says_so() -> None:
    async with local_node() as node, channel_to(node.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="it stands alone") as refusal:
            await control_pb2_grpc.ControlStub(channel).Nodes(pb.NodesRequest(), timeout=10)
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_command_asks_one_node_of_several(tmp_path: Path) -> None:
    """Exit status 0 while all are there, 1 when one has gone."""
    prompt = Prompt.made("a", 4)
    file = tmp_path / "keys"
    file.write_text(prompt.keys.hex())
    plan = Plan.of("a", "b")
    async with member(plan, "a") as a:
        with served_member(plan, "b", tmp_path / "b"):
            await put(a.engine, prompt)
            await linked_to(a, "b")
            status = await command(a, "status", "--all", "--json")
            assert status.returncode == 0, status.stdout + status.stderr
            told = json.loads(status.stdout)
            assert [one["node_id"] for one in told["nodes"]] == ["a", "b"]
            assert told["links"]["peers"][0]["linked"]
            prompt_words = (str(file), "--namespace", digest_of(a).hex())
            where = await command(a, "where", *prompt_words)
            assert where.returncode == 0, where.stderr
            assert [line.split()[:2] for line in where.stdout.splitlines()[2:]] == [
                ["a", "4"],
                ["b", "0,"],
            ]
            for words in (("--for", "30"), ("--for", "0")):
                pin = await command(a, "pin", *prompt_words, "--node", "a", *words)
                assert pin.returncode == 0, pin.stderr
                assert pin.stdout.startswith(("4 of 4 chunks", "let go"))
            quota = await command(a, "quota", "gold", "1MiB")
            assert quota.returncode == 0, quota.stderr
            assert [line.split() for line in quota.stdout.splitlines()[1:]] == [
                ["a", "0"],
                ["b", "0"],
            ]
            evict = await command(a, "evict", *prompt_words, "--node", "a", "--json")
            assert evict.returncode == 0, evict.stderr
            assert json.loads(evict.stdout)["nodes"][0]["evicted"]["chunks"] == "4"
        await linked_to(a)
        gone = await command(a, "status")
        assert gone.returncode == 1
        assert "b is away" in gone.stdout


async def command(one: Member, *words: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "penstock.actors.cli.main", "cluster", *words]
    told = await anyio.run_process([*run, "--address", one.node.address], check=False)
    out, errors = told.stdout.decode(), told.stderr.decode()
    return subprocess.CompletedProcess(run, told.returncode, out, errors)
