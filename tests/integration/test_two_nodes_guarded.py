"""Nodes that know each other by certificates; and what becomes of all others who knock."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import grpc
import pytest
from grpc import aio
from support.cluster import Member, Plan, all_linked, member
from support.media import Prompt, find, put
from support.peer_pki import Authority

from penstock.protos import peer_pb2
from penstock.runtime.security import TlsFiles

pytestmark = pytest.mark.anyio

EPOCH = b"e" * 16


def tls(files: TlsFiles) -> dict[str, object]:
    return {
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
        "tls_ca": str(files.ca),
    }


async def test_nodes_with_certificates_read_from_each_other(tmp_path: Path) -> None:
    """D4: mutual TLS, a name for each; the bytes go by the encrypted stream."""
    authority = Authority(tmp_path)
    plan, prompt = Plan.of("a", "b"), Prompt.made("a", 8)
    channels = {"kinds": ["grpc"]}
    one_tls, other_tls = (tls(authority.issue(name)) for name in ("a", "b"))
    async with (
        member(plan, "a", cluster={"channels": channels, **one_tls}) as one,
        member(plan, "b", cluster={"channels": channels, **other_tls}) as other,
    ):
        await all_linked([one, other])
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        assert (await find(other.engine, prompt)).bodies == prompt.bodies


async def test_d4_a_node_with_anothers_name_is_not_let_in(tmp_path: Path) -> None:
    """D4: its certificate is good, and for somebody else: it says that it is b, and is refused, counted and told of."""
    authority = Authority(tmp_path)
    plan = Plan.of("a", "b")
    one_tls = tls(authority.issue("a"))
    async with member(plan, "a", cluster=one_tls) as one:
        thief = authority.issue("c")
        credentials = grpc.ssl_channel_credentials(
            thief.ca.read_bytes() if thief.ca else None,
            thief.key.read_bytes(),
            thief.certificate.read_bytes(),
        )
        options = [("grpc.ssl_target_name_override", "a")]
        target = f"127.0.0.1:{plan.ports['a']}"
        async with aio.secure_channel(target, credentials, options=options) as channel:
            told = await knock(channel, node_id="b")
        assert "certificate" in told
        assert one.value("penstock_peer_handshakes_refused_total", reason="not_its_name") == 1


async def knock(channel: aio.Channel, *, node_id: str = "b", **changed: object) -> str:
    """Say Hello as a node would, `changed`; what is answered to it."""
    call = channel.stream_stream("/penstock.v1.Peer/Link")()
    challenge = peer_pb2.LinkReply.FromString(await call.read()).challenge
    given = {
        "nonce": challenge.nonce,
        "own_nonce": os.urandom(32),
        "node_id": node_id,
        "epoch": EPOCH,
        "listener_id": "a",
        "protocol_version": 1,
        **changed,
    }
    hello = peer_pb2.PeerHello(**given)
    await call.write(peer_pb2.LinkRequest(hello=hello).SerializeToString())
    with anyio.fail_after(10):
        reply = peer_pb2.LinkReply.FromString(await call.read())
    call.cancel()
    return reply.refused.reason if reply.HasField("refused") else ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"nonce": b"n" * 32}, "replayed"),
        ({"listener_id": "c"}, "wrong_node"),
        ({"protocol_version": 7}, "wrong_version"),
        ({"epoch": b"short"}, "malformed"),
        ({"node_id": "../../etc"}, "malformed"),
    ],
)
async def test_a_hello_that_is_not_right_is_refused_in_words(
    changed: dict[str, object], reason: str
) -> None:
    """D4, C10: counted by its reason, and the node goes on."""
    plan = Plan.of("a", "b")
    async with member(plan, "a") as one:
        async with aio.insecure_channel(f"127.0.0.1:{plan.ports['a']}") as channel:
            assert await knock(channel, **{"node_id": "b", **changed})
            assert await knock(channel) == ""
        assert one.value("penstock_peer_handshakes_refused_total", reason=reason) == 1


async def test_d3_calls_of_no_link_are_refused() -> None:
    """D3: a link's id is unguessable; without one nothing is read, watched or pushed. Nor is garbage."""
    plan = Plan.of("a", "b")
    async with member(plan, "a"):
        target = f"127.0.0.1:{plan.ports['a']}"
        async with aio.insecure_channel(target) as channel:
            read = channel.unary_unary("/penstock.v1.Peer/Read")
            for metadata in ((), (("penstock-link-bin", b"x" * 16),)):
                with pytest.raises(aio.AioRpcError) as refused:
                    await read(b"", metadata=metadata, timeout=10)
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            call = channel.stream_stream("/penstock.v1.Peer/Link")()
            await call.read()
            await call.write(os.urandom(500))
            with anyio.fail_after(10):
                reply = peer_pb2.LinkReply.FromString(await call.read())
            assert reply.refused.reason


async def test_c10_who_opens_links_and_says_nothing_holds_no_place() -> None:
    """C10: the handshake has its time; as many as there may be do not keep a peer out for longer."""
    plan = Plan.of("a", "b")
    few = {"links_max": 4, "dial_within": "500ms"}
    async with member(plan, "a", cluster=few) as one:
        target = f"127.0.0.1:{plan.ports['a']}"
        async with aio.insecure_channel(target) as channel:
            calls = [channel.stream_stream("/penstock.v1.Peer/Link")() for _ in range(6)]
            for call in calls:
                await call.read()
            async with member(plan, "b", cluster=few) as other:
                await all_linked([one, other])
        refused = "penstock_peer_handshakes_refused_total"
        assert one.value(refused, reason="too_many") >= 2
        assert one.value(refused, reason="late") >= 4


async def test_garbage_at_the_port_changes_nothing() -> None:
    plan, prompt = Plan.of("a", "b"), Prompt.made("a", 4)
    async with member(plan, "a") as one, member(plan, "b") as other:
        await all_linked([one, other])
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", plan.ports["a"])) as stranger:
                stranger.sendall(os.urandom(200))
        assert (await find(other.engine, prompt)).bodies == prompt.bodies
        assert await is_well(one)


async def is_well(one: Member) -> bool:
    parts = (await one.health()).parts
    return all(part.restarts == 0 for part in parts)
