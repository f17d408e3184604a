"""Members by a real etcd: they come, leave and die; and etcd is paused, killed, wiped and begun again under them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import grpc
import pytest
from anyio.lowlevel import checkpoint
from support import member_process
from support.etcd_server import EtcdServer, etcd_server
from support.eventually import eventually
from support.peer_pki import Authority

from penstock.runtime.errors import ConfigError
from penstock.runtime.etcd_client import etcd_session
from penstock.runtime.etcd_membership import EtcdMembership, etcd_membership
from penstock.runtime.membership import Member, MembershipFailed
from penstock.runtime.membership_config import EtcdConfig
from penstock.runtime.units import Seconds

pytestmark = pytest.mark.anyio
LEASE_S = 2.0


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path / "etcd") as server:
        yield server


@pytest.fixture(autouse=True)
async def told_of_what_was_given_up(anyio_backend: str) -> AsyncIterator[None]:
    """gRPC tells of a call that was given up when it is over, in the order of what ends; and tells the next test of it,
    if this one's loop is closed by then. So each test has one more call, that is served."""

    async def serve(request: bytes, _: object) -> bytes:
        return request

    handlers = {"last": grpc.unary_unary_rpc_method_handler(serve)}
    yield
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.unary_unary("/t/last")(b"")
    await server.stop(None)


@pytest.fixture(scope="module")
def etcd_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path_factory.mktemp("etcd") / "data") as server:
        yield server


def config_of(*endpoints: str, **changed: object) -> EtcdConfig:
    given: dict[str, object] = {
        "endpoints": endpoints,
        "lease": Seconds(LEASE_S),
        "within": Seconds(0.5),
        "retry": Seconds(0.05),
        "retry_max": Seconds(0.2),
    }
    return EtcdConfig(**{**given, **changed})  # type: ignore[arg-type]


class History:
    """Whom one node has known as members, and what was wrong, from change to change."""

    def __init__(self, membership: EtcdMembership) -> None:
        self.membership = membership
        self.names: list[tuple[str, ...]] = []
        self.degraded: list[str] = []

    async def follow(self) -> None:
        seen = 0
        while True:
            seen = await self.membership.wait_changed(seen)
            self.names.append(tuple(one.node_id for one in self.membership.members))
            self.degraded.append(self.membership.degraded)

    async def until(self, *names: str, within: float = 10, degraded: bool = False) -> None:
        async def look() -> bool:
            known = tuple(one.node_id for one in self.membership.members)
            return known == names and bool(self.membership.degraded) == degraded

        await eventually(look, within=within, what=f"members {names}, degraded {degraded}")

    async def until_at(self, address: str) -> None:
        async def look() -> bool:
            return [one.address for one in self.membership.members] == [address]

        await eventually(look, within=5, what=f"the one member is at {address}")

    async def no_doubt(self) -> None:
        """Wait until nobody is a member only because it is not known yet whether they come back."""

        async def look() -> bool:
            return not self.membership._book.doubted

        await eventually(look, within=3 * LEASE_S, what="whoever was doubted is back, or gone")


async def lasted(seconds: float) -> None:
    """While another process is stopped, there is nothing else to see of it than that time passes."""
    until = anyio.current_time() + seconds

    async def look() -> bool:
        return anyio.current_time() > until

    await eventually(look, within=2 * seconds, what=f"{seconds:g} s have passed")


@asynccontextmanager
async def node(name: str, config: EtcdConfig, *, boot: bytes = b"") -> AsyncIterator[History]:
    async with etcd_membership(config, name) as membership:
        history = History(membership)
        await membership.announce(Member(name, f"{name}.test:7700", boot or name.encode()))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(history.follow)
            yield history
            tasks.cancel_scope.cancel()


@contextmanager
def process(name: str, etcd: EtcdServer) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, str(member_process.__file__), name, etcd.address, f"{LEASE_S}"]
    child = subprocess.Popen(words)
    try:
        yield child
    finally:
        child.kill()
        child.wait(10)


async def test_nodes_join_with_their_boot_and_are_gone_at_once_when_they_leave(
    etcd: EtcdServer,
) -> None:
    """Seen to fail with the farewell taken out: b stayed for its lease of 60 s."""
    config = config_of(etcd.address, lease=Seconds(60))
    async with node("a", config) as a:
        async with node("b", config, boot=b"\x01\x02") as b:
            await a.until("b")
            await b.until("a")
            assert a.membership.members == (Member("b", "b.test:7700", b"\x01\x02"),)
        await a.until(within=2)
        etcd.control("put", "/penstock/nodes/garbage", "{}")
        async with node("c", config):
            await a.until("c")


async def test_a_node_that_is_killed_is_gone_after_its_lease(etcd: EtcdServer) -> None:
    """Its links are lost by their heartbeats long before. Seen to fail with `settle` taken out of the sweep."""
    async with node("a", config_of(etcd.address)) as a:
        with process("b", etcd) as child:
            await a.until("b")
            began = anyio.current_time()
            child.kill()
            await a.until(within=4 * LEASE_S)
            assert anyio.current_time() - began > LEASE_S / 2


async def test_a_paused_etcd_costs_nobody_their_peers(etcd: EtcdServer) -> None:
    """C7: longer than all leases, so that etcd ends them all when it goes on.

    Seen to fail with deletions believed at once: each lost the other for a moment.
    """
    config = config_of(etcd.address)
    async with node("a", config) as a, node("b", config) as b:
        await a.until("b")
        await b.until("a")
        known, before = len(a.names), a.membership._lease
        etcd.pause()
        await a.until("b", degraded=True)
        await b.until("a", degraded=True)
        assert f"etcd at {etcd.address}: no answer within 0.5 s" in a.membership.degraded
        assert "going on with the members last known" in a.membership.degraded
        await lasted(2 * LEASE_S)
        etcd.go_on()
        await a.until("b")
        await b.until("a")
        await a.no_doubt()
        assert a.membership._lease != before, "etcd has not ended the lease: nothing was shown"
        assert {*a.names[known:]} == {("b",)}
        await b.until("a")


@pytest.mark.parametrize("wiped", [False, True])
async def test_an_etcd_that_dies_and_comes_back_costs_nobody_their_peers(
    etcd: EtcdServer, wiped: bool
) -> None:
    """C7: with its data, or empty. New ones join when it is back; leases are made anew.

    Seen to fail with an empty list believed at once.
    """
    config = config_of(etcd.address)
    async with node("a", config) as a, node("b", config) as b:
        await a.until("b")
        await b.until("a")
        known = len(a.names)
        if wiped:
            etcd.wipe()
        else:
            etcd.kill()
        await a.until("b", degraded=True)
        async with node("c", config) as c:
            await c.until(degraded=True)
            await anyio.to_thread.run_sync(etcd.start)
            await c.until("a", "b")
            await a.until("b", "c")
            await b.until("a", "c")
            await a.no_doubt()
            await c.until("a", "b")
        assert {*a.names[known:]} <= {("b",), ("b", "c")}


async def test_the_next_server_is_asked_when_one_is_down(etcd: EtcdServer) -> None:
    config = config_of("127.0.0.1:1", etcd.address)
    async with node("a", config) as a, node("b", config):
        await a.until("b")


async def test_two_nodes_of_one_name_are_told(etcd: EtcdServer) -> None:
    """The later one has the name; the other says so, does not fight, and has it again when it is free."""
    config = config_of(etcd.address)
    async with node("a", config, boot=b"1") as first, node("c", config) as c:
        await first.until("c")
        await c.until("a")
        async with etcd_membership(config, "a") as second:
            await second.announce(Member("a", "other.test:7700", b"2"))
            await first.until("c", degraded=True)
            said = "another node calls itself a, at other.test:7700"
            assert said in first.membership.degraded
            await c.until_at("other.test:7700")
            assert second.degraded == ""
        await first.until("c")
        await c.until_at("a.test:7700")


async def test_a_watch_that_etcd_has_forgotten_fails_and_is_no_silence(etcd: EtcdServer) -> None:
    """Compaction. Whoever was away so long lists anew, as after every failure."""
    config = config_of(etcd.address)
    for value in range(3):
        etcd.control("put", "/penstock/nodes/x", f"{value}")
    async with etcd_session(config, etcd.address) as session:
        revision, _ = await session.list(b"/penstock/nodes/", 10)
        etcd.control("compact", f"{revision}")
        with pytest.raises(MembershipFailed, match="compacted"):
            async for _ in session.watch(b"/penstock/nodes/", 1):
                pass


async def test_a_login_is_shown_and_a_wrong_one_is_told(etcd: EtcdServer, tmp_path: Path) -> None:
    """D1: the password is in no word of it."""
    for words in (
        ("user", "add", "root:secret"),
        ("user", "grant-role", "root", "root"),
        ("auth", "enable"),
    ):
        etcd.control(*words)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("secret\n")
    wrong.write_text("sesame\n")
    config = config_of(etcd.address, user="root", password_file=right)
    async with node("a", config) as a, node("b", config):
        await a.until("b")
        async with node("c", config_of(etcd.address, user="root", password_file=wrong)) as c:
            await c.until(degraded=True)
            assert "invalid user ID or password" in c.membership.degraded
            assert "sesame" not in c.membership.degraded
        async with node("d", config_of(etcd.address)) as d:
            await d.until(degraded=True)
    with pytest.raises(ConfigError, match=r"none: No such file"):
        async with node("e", config_of(etcd.address, user="root", password_file=tmp_path / "none")):
            pass


async def test_etcd_is_reached_by_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    with etcd_server(tmp_path / "etcd", authority.issue("127.0.0.1", file="etcd")) as server:
        mine = authority.issue("a")
        files = {"tls_ca": mine.ca, "tls_certificate": mine.certificate, "tls_key": mine.key}
        config = config_of(server.address, **files)
        async with node("a", config) as a, node("b", config):
            await a.until("b")
        other = Authority(tmp_path / "other")
        async with node("c", config_of(server.address, **{**files, "tls_ca": other.ca})) as c:
            await c.until(degraded=True)
            assert "CERTIFICATE_VERIFY_FAILED" in c.membership.degraded


async def test_one_beyond_the_bound_of_members_writes_its_entry_once(etcd: EtcdServer) -> None:
    """C10: it is left out by others, and knows as many as it may. Seen to fail with its own entry looked for among
    its members: it wrote as fast as etcd answered."""
    config = config_of(etcd.address, members_max=1)
    async with (
        node("a", config),
        node("b", config) as b,
        node("c", config) as c,
    ):
        await b.until("a")
        await c.until("a")
        async with etcd_session(config, etcd.address) as session:
            before, _ = await session.list(b"/penstock/", 10)
            for _ in range(20):
                after, _ = await session.list(b"/penstock/", 10)
        assert after == before


@pytest.mark.parametrize("turns", [*range(0, 24, 2), 50, 100, 200, 400])
async def test_one_that_is_given_up_at_any_moment_leaves_nothing(
    etcd_for_all: EtcdServer, turns: int
) -> None:
    """No task, and, once it is over, no entry: whoever is given up before its farewell goes with its lease.

    Seen to fail with the task of `running` not waited for.
    """
    before = asyncio.all_tasks()

    async def live() -> None:
        async with node(f"n{turns}", config_of(etcd_for_all.address)):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        for _ in range(turns):
            await checkpoint()
        tasks.cancel_scope.cancel()
    left = {one for one in asyncio.all_tasks() - before if "grpc" not in repr(one.get_coro())}
    assert not left
