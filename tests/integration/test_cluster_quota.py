"""A tenant's quota, set at all nodes by asking one: it bounds what is written from then on."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest
from support.cluster import Member, Plan, cluster, member
from support.declarations import OBJECT_BYTES
from support.media import Prompt, put
from support.raw_engine import channel_to
from support.stored_node import purge

from penstock.protos import control_pb2 as pb
from penstock.protos import control_pb2_grpc
from penstock.protos.fleet_pb2 import TenantQuota
from penstock.runtime.units import MIB

pytestmark = pytest.mark.anyio
GOLD = b"gold"


async def set_quota(
    one: Member, bytes_: int, *, salt: bytes = GOLD, nodes: Sequence[str] = ()
) -> dict[str, int | str]:
    """Bytes that the tenant holds at each node, or why it was not set there."""
    quota = TenantQuota(salt=salt, bytes=bytes_)
    request = pb.SetQuotaRequest(quota=quota, node_ids=nodes)
    async with channel_to(one.node.address) as channel:
        reply = await control_pb2_grpc.ControlStub(channel).SetQuota(request, timeout=10)
    return {told.node_id: told.problem or told.held.bytes for told in reply.nodes}


async def test_a_quota_holds_at_all_nodes_from_the_next_write_on() -> None:
    """At a node where the tenant was before, and at one where it was not; nobody else is bound by it."""
    prompt, free = Prompt.made("a", 6, salt=GOLD), Prompt.made("b", 6)
    async with cluster("a", "b", l1__tenant_bytes_max=4 * MIB) as (a, b):
        await put(a.engine, Prompt(prompt.keys[:64], prompt.bodies[:2], GOLD))
        held = await set_quota(b, 4 * OBJECT_BYTES)
        assert held == {"b": 0, "a": 2 * OBJECT_BYTES}
        assert await put(a.engine, prompt) == 2
        assert await put(b.engine, prompt) == 4
        assert await put(b.engine, free) == 6
        assert await set_quota(a, 0) == {"a": 4 * OBJECT_BYTES, "b": 4 * OBJECT_BYTES}
        assert await put(b.engine, prompt) == 2


async def test_a_tenant_that_is_bound_later_gives_up_what_it_had() -> None:
    """If it was under a quota, however large, when it wrote that."""
    large = 4 * MIB
    async with member(Plan.of("a", "b"), "a", l1__tenant_bytes_max=large) as a:
        await put(a.engine, Prompt.made("a", 6, salt=GOLD))
        await set_quota(a, 4 * OBJECT_BYTES, nodes=["a"])
        later = Prompt.made("b", 4, salt=GOLD)
        assert await put(a.engine, later) + await put(a.engine, later) == 4
        assert (await set_quota(a, 4 * OBJECT_BYTES, nodes=["a"]))["a"] == 4 * OBJECT_BYTES


async def test_a_tenant_that_wrote_without_a_quota_gets_none_until_that_has_gone() -> None:
    """It could not give up its own, and would be refused for good."""
    async with member(Plan.of("a", "b"), "a") as a:
        await put(a.engine, Prompt.made("a", 6, salt=GOLD))
        told = await set_quota(a, 4 * OBJECT_BYTES, nodes=["a"])
        assert "l1.tenant_bytes_max" in str(told["a"])
        assert await put(a.engine, Prompt.made("b", 6, salt=GOLD)) == 6
        await purge(a.node)
        assert (await set_quota(a, 4 * OBJECT_BYTES, nodes=["a"]))["a"] == 0
        assert await put(a.engine, Prompt.made("a", 6, salt=GOLD)) == 4


async def test_a_quota_may_be_set_at_one_node_alone() -> None:
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b") as (a, b):
        assert await set_quota(a, OBJECT_BYTES, salt=b"", nodes=["b"]) == {"b": 0}
        assert await put(a.engine, prompt) == 6
        assert await put(b.engine, prompt) == 1


async def test_a_quota_that_a_node_cannot_keep_is_refused_there() -> None:
    async with cluster("a", "b") as (a, _):
        told = await set_quota(a, 4 * MIB + 1)
        assert all("l1.bytes" in str(one) for one in told.values())
        assert len(told) == 2
        told = await set_quota(a, 1, salt=bytes(257), nodes=["b"])
        assert "at most 256 bytes" in str(told["b"])


async def test_quotas_of_their_own_are_bounded() -> None:
    async with member(Plan.of("a", "b"), "a", l1__tenants_max=2) as a:
        for salt in (b"1", b"2", b"1"):
            assert await set_quota(a, 5, salt=salt, nodes=["a"]) == {"a": 0}
        told = await set_quota(a, 5, salt=b"3", nodes=["a"])
        assert "l1.tenants_max" in str(told["a"])
        with pytest.raises(grpc.aio.AioRpcError, match="'z' is no member"):
            await set_quota(a, 5, nodes=["z"])


async def test_a_node_that_names_no_operators_is_bound_by_itself_alone() -> None:
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b", cluster={"operators": []}) as (a, b):
        told = await set_quota(a, OBJECT_BYTES, salt=b"")
        assert told["a"] == 0
        assert "cluster.operators" in str(told["b"])
        assert await put(b.engine, prompt) == 6
