"""A cluster one of whose servers is dead, elsewhere, or not to be told the password."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.eventually import eventually

from penstock.actors.api.store import Keys
from penstock.actors.api.types import Epoch
from penstock.actors.stores.resp_words import RespError
from penstock.actors.stores.store import StoreContext, StoreFault
from penstock.actors.stores.valkey import ValkeyStore, open_valkey_store
from penstock.actors.stores.valkey_config import Mode, ValkeyConfig
from penstock.actors.stores.valkey_node import Login, ValkeyNode
from penstock.actors.stores.valkey_servers import SLOTS, Cluster, slot_of
from penstock.runtime.security import TcpAddress
from penstock.runtime.units import Seconds

Range = tuple[int, int, str, int]  # first and last slot, host, port


class FakeServer:
    """Has every key, and says of the cluster what it is told to."""

    def __init__(self) -> None:
        self.ranges: list[Range] = []
        self.moved_to = ""
        self.port = 0
        self._serving: set[asyncio.Task[None] | None] = set()

    async def ended(self) -> None:
        """When all who were connected have gone."""
        while self._serving:
            await checkpoint()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._serving.add(task)
        with suppress(ConnectionResetError):
            await self._serve(reader, writer)
        writer.close()
        self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append(await reader.readexactly(size))
                await reader.readexactly(2)
            writer.write(self._answer(words))

    def _answer(self, words: list[bytes]) -> bytes:
        match words[0]:
            case b"CLUSTER":
                rows = [
                    f"*3\r\n:{first}\r\n:{last}\r\n*2\r\n${len(host)}\r\n{host}\r\n:{port}\r\n"
                    for first, last, host, port in self.ranges
                ]
                return f"*{len(rows)}\r\n{''.join(rows)}".encode()
            case b"EXISTS" if self.moved_to:
                slot = slot_of(words[1])
                return f"-MOVED {slot} {self.moved_to}\r\n".encode()
            case b"EXISTS":
                return b":1\r\n"
            case _:
                return b"+OK\r\n"


@contextmanager
def dead_server() -> Iterator[int]:
    """A port where connecting hangs: nobody accepts, and as many wait as may."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as dead:
        port = dead.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield port
        for one in waiting:
            one.close()


def play(
    scene: Callable[[ValkeyStore, FakeServer], Any],
    ranges: Callable[[int], list[Range]],
    **given: Any,
) -> None:
    """`scene` with a store on a cluster of one fake server, which tells these ranges; its port is given."""

    async def run() -> None:
        fake = FakeServer()
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        fake.port = server.sockets[0].getsockname()[1]
        fake.ranges = ranges(fake.port)
        made: dict[str, Any] = {"connect_within": Seconds(0.3), "locate_within": Seconds(0.2)}
        config = ValkeyConfig(
            name="v", addresses=(f"127.0.0.1:{fake.port}",), mode=Mode.CLUSTER, **{**made, **given}
        )
        try:
            store = await open_valkey_store(config, StoreContext("v", Epoch(bytes(16))))
            try:
                await scene(store, fake)
            finally:
                await store.aclose()
        finally:
            server.close()
            await fake.ended()

    anyio.run(run)


def keys(count: int) -> Keys:
    return Keys.of([(bytes([n]) * 32, 0) for n in range(count)])


def halves(first: int, second: int) -> list[Range]:
    middle = SLOTS // 2
    return [(0, middle - 1, "127.0.0.1", first), (middle, SLOTS - 1, "127.0.0.1", second)]


async def located(store: ValkeyStore, asked: Keys) -> bytes:
    """Within the time that a locate has; empty: not in time, or nobody knows."""
    with anyio.move_on_after(0.2):
        try:
            return await store.locate(asked)
        except StoreFault:
            pass
    return b""


def test_a_failover_is_learned_though_every_deadline_is_shorter_than_a_connection_takes() -> None:
    """B10: the dead server is found out behind the back of those who gave up."""
    with dead_server() as dead:

        async def scene(store: ValkeyStore, fake: FakeServer) -> None:
            fake.ranges = [(0, SLOTS - 1, "127.0.0.1", fake.port)]

            async def look() -> bool:
                return await located(store, keys(4)) == b"\1" * 4

            await eventually(look, within=5, what="all keys are found at the living server")

        play(scene, lambda _: [(0, SLOTS - 1, "127.0.0.1", dead)])


def test_a_dead_server_costs_its_own_answers_and_no_others() -> None:
    """Half of the keys are found all the time."""
    with dead_server() as dead:

        async def scene(store: ValkeyStore, _: FakeServer) -> None:
            asked = keys(32)
            middle = SLOTS // 2
            here = [slot_of(store._name(key)) < middle for key in asked]
            assert 0 < sum(here) < 32
            for _ in range(4):
                assert await located(store, asked) == bytes(here)

        play(scene, lambda port: halves(port, dead), locate_within=Seconds(0.15))


def test_no_server_beyond_this_machine_is_told_the_password_in_the_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither one of the map, nor one that a server sends on to."""
    monkeypatch.setenv("VALKEY_PASSWORD", "secret")

    async def never(*_: object, **__: object) -> None:
        raise AssertionError("connected")

    async def redirected(store: ValkeyStore, fake: FakeServer) -> None:
        fake.moved_to = "203.0.113.9:6379"
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "create_connection", never)
            with pytest.raises(StoreFault, match=r"203.0.113.9:6379 would be reached in the clear"):
                await store.locate(keys(1))

    play(redirected, lambda port: [(0, SLOTS - 1, "127.0.0.1", port)])

    async def no_scene(_: ValkeyStore, __: FakeServer) -> None:
        raise AssertionError("opened")

    with pytest.raises(StoreFault, match="set tls_ca or tls, or allow_clear"):
        play(no_scene, lambda _: [(0, SLOTS - 1, "203.0.113.9", 6379)])


def test_servers_that_are_named_are_bounded() -> None:
    """By one that sends on to ever others."""
    login = Login("", None, 0, None, 1, 1, 1, allow_clear=False)
    seed = TcpAddress("127.0.0.1", 1)
    cluster = Cluster([seed], login)
    node = ValkeyNode(seed, login)
    with pytest.raises(StoreFault, match="more than 1024 servers"):
        for port in range(1, 2000):
            cluster._redirected(RespError("MOVED", f"MOVED 1 127.0.0.1:{port}"), node)
    cluster.close()
