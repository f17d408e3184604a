"""Scenario C10: too many, too slow, too large, without end: refused with a status, and the node serves on."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import anyio
import grpc
import pytest
from support.declarations import hello, keys
from support.engine_process import engine_process
from support.eventually import eventually, eventually_sync
from support.nodes import local_node, served_node
from support.raw_engine import RawEngine, StreamOver, attached, channel_to, open_stream

from penstock.protos import common_pb2 as wire
from penstock.protos import engine_pb2 as pb
from penstock.protos import engine_pb2_grpc

pytestmark = [
    pytest.mark.with_stores_too,
    pytest.mark.anyio,
    pytest.mark.loop_step_ms(200),
]  # hundreds of clients on the same loop


async def test_streams_beyond_the_bound_are_refused_at_once_on_one_connection_or_many() -> None:
    """C10: the stream that is one too many gets RESOURCE_EXHAUSTED, and health is still answered beside them.

    Seen to fail with gRPC's own limit of concurrent calls at the same number: the last stream waited in the client
    for ever, and so did Health.
    """
    streams_max = 300
    async with local_node(gateway__streams_max=streams_max) as node:
        async with channel_to(node.address) as channel, anyio.create_task_group() as tasks:
            streams = [RawEngine(channel) for _ in range(streams_max)]
            for stream in streams:
                tasks.start_soon(stream.read_all)
            for stream in streams:
                await stream.attach(hello(own_shards=[]), enter=False)
            health = engine_pb2_grpc.EngineStub(channel).Health
            assert (await health(pb.HealthRequest(), timeout=5)).state == pb.HEALTH_STATE_SERVING
            one_too_many = RawEngine(channel)
            code, said = await one_too_many.status()
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "gateway.streams_max" in said
            async with open_stream(node.address) as from_elsewhere:
                code, _ = await from_elsewhere.status()
                assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await streams[0].stat()).sessions == streams_max
            streams[0].call.cancel()

            async def has_room() -> bool:
                async with open_stream(node.address) as again:
                    try:
                        return (await again.ask(hello=hello())).HasField("welcome")
                    except StreamOver:
                        return False

            await eventually(has_room, within=5, what="the place of one that left is free")
            for stream in streams[1:]:
                stream.call.cancel()


async def test_sessions_beyond_the_bound_are_refused_in_words() -> None:
    """C10: attached and lost ones count; the refusal says which bound, and one that leaves makes room."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(local_node(sessions__sessions_max=3))
        engines = [
            await stack.enter_async_context(attached(node.address, hello())) for _ in range(3)
        ]
        late = await stack.enter_async_context(open_stream(node.address))
        refused = (await late.ask(hello=hello())).error
        assert refused.code == wire.ERROR_CODE_EXHAUSTED
        assert "sessions.sessions_max = 3" in refused.message
        await engines[0].call.done_writing()

        async def attaches() -> bool:
            return (await late.ask(hello=hello())).HasField("welcome")

        await eventually(attaches, within=2, what="the place of one that left is free")


async def test_who_says_no_hello_is_ended_with_a_status() -> None:
    """C10: slow loris: a stream that says nothing, and one that says one refused thing after another, end in time.

    Seen to fail with hello_within bounding each message and not all of them.
    """
    async with local_node(gateway__hello_within="300ms") as node:
        begin = time.monotonic()
        async with open_stream(node.address) as silent, open_stream(node.address) as chatty:
            with pytest.raises(StreamOver):
                while True:
                    await chatty.ask(touch=pb.Touch())
            code, said = await silent.status()
            assert code == grpc.StatusCode.FAILED_PRECONDITION, said
            assert "Hello" in said
            code, _ = await chatty.status()
            # INTERNAL: gRPC's own word for having written into a call that had just been ended.
            assert code in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL}
        assert time.monotonic() - begin < 3


async def test_a_client_that_never_reads_loses_its_stream() -> None:
    """C10: replies that nobody takes are bounded; after `stall` the stream is over, its session too.

    Seen to fail without the timer around a write: the writer waited for ever, the session stayed.
    """
    async with (
        local_node(gateway__stall="300ms", gateway__outgoing_max=8) as node,
        attached(node.address, hello()) as onlooker,
    ):
        async with channel_to(node.address) as channel:
            deaf = RawEngine(channel)
            first = pb.SessionRequest(correlation_id=1, hello=hello())
            await deaf.send(first.SerializeToString())

            async def has_come() -> bool:
                return (await onlooker.stat()).sessions == 2

            await eventually(has_come, within=5, what="the deaf client's session")

            async def shout() -> None:
                """Ask for replies of 48 KiB each."""
                body = pb.Reserve(prompt=pb.Prompt(keys=keys(2000)))
                try:
                    for number in itertools.count(2):
                        request = pb.SessionRequest(correlation_id=number, reserve=body)
                        await deaf.send(request.SerializeToString())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return  # the node has given the stream up

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(shout)

                async def is_gone() -> bool:
                    return (await onlooker.stat()).sessions == 1

                await eventually(is_gone, within=10, what="the deaf client's session is over")
                tasks.cancel_scope.cancel()


async def test_a_session_holds_no_more_than_its_bounds() -> None:
    """C10: leases, tickets and waiting requests of a session are bounded, each refusal names its bound."""
    async with (
        local_node(gateway__leases_max=5, gateway__tickets_max=5) as node,
        attached(node.address, hello()) as engine,
        attached(node.address, hello()) as other,
    ):
        await engine.put(keys(1))
        tickets = [(await engine.lookup(keys(1))).lookup.ticket for _ in range(5)]
        over = (await engine.lookup(keys(1))).error
        assert over.code == wire.ERROR_CODE_EXHAUSTED
        assert "5 tickets" in over.message
        for ticket in tickets:
            assert (await engine.acquire(ticket)).HasField("acquired")
        over = (await engine.acquire(tickets[0])).error
        assert over.code == wire.ERROR_CODE_EXHAUSTED
        assert "5 leases" in over.message
        assert (await other.lookup(keys(1))).lookup.hit_chunks == 1
        await engine.ask(cancel=pb.Cancel(ticket=tickets[0]))
        assert (await engine.lookup(keys(1))).HasField("lookup")


async def test_quarantine_is_bounded_by_engine() -> None:
    """DESIGN 5: an engine that leaves too much memory in doubt gets no new leases; another engine does."""
    async with (
        local_node(l1__quarantine_max=0.25, l1__bytes=64 * 4096) as node,
        attached(node.address, hello(instance=b"a" * 16)) as careless,
        attached(node.address, hello(instance=b"b" * 16)) as other,
    ):
        late = (await careless.reserve(keys(20), lease_ms=20)).reserved.lease

        async def is_in_doubt() -> bool:
            return (await node.usage()).quarantined_bytes > 0

        await eventually(is_in_doubt, within=2, what="the reservation has expired")
        refused = (await careless.reserve(keys(1, prompt="more"))).error
        assert refused.code == wire.ERROR_CODE_EXHAUSTED
        await other.put(keys(1, prompt="others"))
        await careless.ask(abort=pb.Abort(lease=late))
        await careless.put(keys(1, prompt="more"))


async def test_a_message_beyond_the_transports_bound_is_never_taken_in(tmp_path: Path) -> None:
    """C10: its length is announced, and the node refuses it by that: 128 MiB cost it no memory.

    Seen to fail with `gateway.transport_message_max` above it: the node grew by all of it.
    """
    with served_node(tmp_path / "state") as node:
        async with attached(node.address, hello(), enter=False) as engine:
            before = peak_bytes(node.process.pid)
            await engine.send(bytes(128 << 20))
            code, said = await engine.status()
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in said
            assert peak_bytes(node.process.pid) - before < 16 << 20


def peak_bytes(process: int) -> int:
    """The most memory it has ever had."""
    status = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# The arena's door.


def connect_to(path: Path) -> socket.socket:
    door = socket.socket(socket.AF_UNIX)
    door.settimeout(10)
    door.connect(str(path))
    return door


async def test_the_door_closes_on_wrong_slow_and_second_comers() -> None:
    """C10, D3: no secret in time, a wrong one, or one that was used: no descriptor, closed."""
    async with local_node(sessions__secret_within="200ms") as node:
        path = node.config.state_dir / "arena.sock"
        async with attached(node.address, hello()) as engine:
            for said in (b"", b"s" * 31, b"s" * 32, engine.welcome.session_secret):
                door = connect_to(path)
                with door:
                    door.sendall(said)
                    answer = await anyio.to_thread.run_sync(door.recv, 1)
                    assert answer == b""
            assert (await engine.stat()).sessions == 1


async def test_who_hangs_up_at_the_door_is_watched_all_the_same() -> None:
    """B5: between the secret and the descriptor the process dies or closes: the node lives, and when the process
    is gone its memory comes back.

    Seen to fail with the failed sending taken for "never entered": the session was lost for ever.
    """
    async with local_node() as node:
        async with engine_process(node.address, "slip", "reserve") as engine:
            assert (await node.usage()).reserved_bytes > 0
            engine.kill()

            async def is_back() -> bool:
                usage = await node.usage()
                return usage.free_bytes == usage.arena_bytes

            await eventually(is_back, within=2, what="its memory is back")


def test_a_node_out_of_descriptors_serves_those_it_has(tmp_path: Path) -> None:
    """C10: connections to both sockets until no descriptor is left; the attached are served, the node lives on.

    Seen to fail with an accept loop that lets EMFILE through: the arena door died, and the node with it.
    """
    prefix = ("prlimit", "--nofile=96:96")
    with served_node(tmp_path / "state", command_prefix=prefix) as node, ExitStack() as stack:
        with node.channel() as channel:
            stub = engine_pb2_grpc.EngineStub(channel)
            # A store that is still being counted would be without descriptors, too, and honestly say so.
            eventually_sync(
                lambda: not any(part.detail for part in stub.Health(pb.HealthRequest()).parts),
                within=5,
                what="all parts are ready and have nothing to say",
            )
            for name in ("arena.sock", "penstock.sock"):
                for _ in range(150):
                    door = stack.enter_context(socket.socket(socket.AF_UNIX))
                    door.setblocking(False)
                    try:
                        door.connect(str(tmp_path / "state" / name))
                    except BlockingIOError:
                        break  # the backlog is full, too
            for _ in range(10):
                health = stub.Health(pb.HealthRequest(), timeout=5)
                assert health.state == pb.HEALTH_STATE_SERVING, health
            stack.close()
        eventually_sync(lambda: node.health().parts, within=5, what="newcomers are served again")
        assert node.terminate() == 0, node.log
