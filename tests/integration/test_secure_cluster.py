"""Whole nodes that know each other by certificates and by etcd, and go on when etcd does not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.cluster import Member, Plan, all_linked, free_ports, member
from support.etcd_server import EtcdServer, etcd_server
from support.eventually import eventually, eventually_sync
from support.media import Prompt, find, put
from support.nodes import served_node
from support.relay import relay

from penstock.actors.cli.main import main
from penstock.runtime.etcd_membership import etcd_membership
from penstock.runtime.membership_config import EtcdConfig
from penstock.runtime.security import TlsFiles
from penstock.runtime.units import Seconds

pytestmark = pytest.mark.anyio


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path / "etcd") as server:
        yield server


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """As an operator makes it, for a and b; and another one, whose b is a stranger here."""
    for name in ("pki", "other"):
        assert main(["certs", "authority", str(tmp_path / name)]) == 0
        for node in ("a", "b"):
            assert main(["certs", "node", str(tmp_path / name), node]) == 0
    return tmp_path / "pki"


def tls(pki: Path, name: str) -> dict[str, str]:
    files = TlsFiles(
        pki / "nodes" / f"{name}.pem", pki / "nodes" / f"{name}.key", pki / "nodes-ca.pem"
    )
    return {
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
        "tls_ca": str(files.ca),
    }


@asynccontextmanager
async def by_etcd(pki: Path, **endpoints: str) -> AsyncIterator[Sequence[Member]]:
    """By name, and where each finds etcd."""
    plan = Plan.of(*endpoints)
    source = {
        "type": "etcd",
        "lease": "2s",
        "within": "500ms",
        "retry": "50ms",
        "retry_max": "200ms",
    }
    async with AsyncExitStack() as nodes:
        members = [
            await nodes.enter_async_context(
                member(
                    plan,
                    name,
                    cluster={
                        "membership": {**source, "endpoints": [where]},
                        "heartbeat": "2s",  # no link is to be lost here, however late a busy machine is
                        **tls(pki, name),
                    },
                )
            )
            for name, where in endpoints.items()
        ]
        await all_linked(members)
        yield members


async def test_nodes_find_each_other_by_etcd_and_go_on_without_it(
    pki: Path, etcd: EtcdServer
) -> None:
    """C7, D4: a whole node says `membership` in its health, and reads from its peer all the while; also when all that
    etcd knew is lost. Seen to fail with deletions believed at once: both links were lost."""
    prompt, later = Prompt.made("a", 8), Prompt.made("b", 8)
    async with by_etcd(pki, a=etcd.address, b=etcd.address) as (a, b):
        await put(a.engine, prompt)
        await b.knows(prompt.keys, of="a")
        assert (await find(b.engine, prompt)).bodies == prompt.bodies
        etcd.wipe()

        async def says() -> str:
            return (await b.usage()).degraded

        assert "going on with the members last known" in await eventually(
            says, within=5, what="b says that its source of members is away"
        )
        await put(a.engine, later)
        await b.knows(later.keys, of="a")
        assert (await find(b.engine, later)).bodies == later.bodies
        etcd.start()

        async def is_well() -> bool:
            return not (await b.usage()).degraded

        await eventually(is_well, within=10, what="b has its source of members again")
        for one, other in ((a, "b"), (b, "a")):
            assert await one.linked() == {other}
            assert not one.value("penstock_peer_links_lost_total", peer=other)
            assert one.value("penstock_peer_strangers") == 0
            assert one.value("penstock_certificate_expires_seconds") > 1e9


async def test_a_node_that_alone_is_cut_off_from_etcd_keeps_its_links(
    pki: Path, etcd: EtcdServer
) -> None:
    """C7: to all others it is no member any more, when its lease is over; what runs goes on, both ways.

    Seen to fail with links to whoever is no member ended at once.
    """
    prompt = Prompt.made("a", 8)
    config = EtcdConfig(endpoints=(etcd.address,), lease=Seconds(2))
    async with (
        relay(etcd.port) as way,
        by_etcd(pki, a=etcd.address, b=way.address) as (a, b),
        etcd_membership(config, "onlooker") as onlooker,
    ):

        async def members(*names: str) -> None:
            async def are() -> bool:
                return tuple(one.node_id for one in onlooker.members) == names

            await eventually(are, within=10, what=f"etcd names {names}")

        await members("a", "b")
        way.cut()
        await members("a")
        await put(b.engine, prompt)
        await a.knows(prompt.keys, of="b")
        assert (await find(a.engine, prompt)).bodies == prompt.bodies
        assert (await a.linked(), await b.linked()) == ({"b"}, {"a"})
        assert (await b.usage()).degraded
        way.mend()
        await members("a", "b")
        assert (await a.linked(), await b.linked()) == ({"b"}, {"a"})
        for one, other in ((a, "b"), (b, "a")):
            assert not one.value("penstock_peer_links_lost_total", peer=other)


async def test_a_node_of_another_authority_gets_nowhere(pki: Path, tmp_path: Path) -> None:
    """D4: it is a member by name, and no more; each says of the other why. Seen to fail with TLS that asks nobody."""
    plan = Plan.of("a", "b")
    files = tls(pki, "a"), tls(tmp_path / "other", "b")
    quick = {"handshake_within": "300ms", "dial_pause": "50ms", "dial_pause_max": "100ms"}
    async with (
        member(plan, "a", cluster={**files[0], **quick}) as a,
        member(plan, "b", cluster={**files[1], **quick}) as b,
    ):
        for one in (a, b):

            async def has_said(one: Member = one) -> bool:
                told = (await one.usage()).peers[0].detail
                return "is not of our cluster.tls_ca" in told and bool(
                    one.value("penstock_peer_strangers")
                )

            await eventually(has_said, within=10, what=f"{one.name} says why it has no peer")
            assert await one.linked() == set()


def test_a_port_scan_of_a_node_is_one_line_of_its_log(pki: Path, tmp_path: Path) -> None:
    """D4, C10: garbage, nothing, and a client of another authority; all counted.

    Seen to fail with gRPC's own words on: a line for each.
    """
    port = free_ports(1)[0]
    config = {"node_id": "a", "listen": f"127.0.0.1:{port}", "handshake_within": "300ms"}
    foreign = ssl.create_default_context(cafile=pki / "nodes-ca.pem")
    foreign.load_cert_chain(*(tmp_path / "other" / "nodes" / f"b.{end}" for end in ("pem", "key")))
    with served_node(tmp_path / "state", cluster={**config, **tls(pki, "a")}) as node:
        for _ in range(4):
            for said in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(4096)):
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(said)
            stranger = socket.create_connection(("127.0.0.1", port))
            with suppress(OSError), foreign.wrap_socket(stranger, server_hostname="a") as secure:
                secure.recv(1)
        eventually_sync(
            lambda: "penstock_peer_strangers 16.0" in node.metrics(),
            within=5,
            what="sixteen strangers are counted",
        )
        told = [line for line in node.log.splitlines() if "SSL" in line or "strangers" in line]
        assert len(told) == 1, told
        assert "strangers_refused" in told[0]
