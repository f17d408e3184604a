"""Scenarios B10, C1, C11: the node goes and comes back under a living engine, with the real client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import grpc
import numpy as np
import pytest
from support.declarations import hello, keys
from support.eventually import eventually
from support.nodes import local_node, serve_command, served_node
from support.raw_engine import attached
from support.small_model import BLOCK_TOKENS, GEOMETRY, HEAD_SIZE, HEADS, LAYERS, spec

from penstock._native import PagedLayout
from penstock.actors.engine.client import (
    Client,
    ClientConfig,
)
from penstock.actors.engine.layout import paged_layout
from penstock.protos import common_pb2 as wire
from penstock.runtime.units import MIB

pytestmark = [
    pytest.mark.with_stores_too,
    pytest.mark.anyio,
]  # copies and maps in the same loop

BLOCKS = 64


def paged(fill: float = 1.0) -> PagedLayout:
    shape = (2, BLOCKS, BLOCK_TOKENS, HEADS, HEAD_SIZE)
    tensors = [np.full(shape, fill, dtype=np.float32) for _ in range(LAYERS)]
    return paged_layout("NL_X_TWO_NB_BS_NH_HS", tensors, GEOMETRY)


TOKENS = list(range(BLOCKS * BLOCK_TOKENS))


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[Client]:
    async with Client.connect(ClientConfig(address=address), spec()) as client:
        yield client


async def heartbeats_of(client: Client, count: int) -> None:
    """Wait until the client has said `count` heartbeats: as many intervals in which it had nothing else to say."""
    stream = client._link.current()._stream
    say, are_said, said = stream._send_heartbeat, anyio.Event(), 0

    def say_and_count() -> None:
        nonlocal said
        said += 1
        say()
        if said == count:
            are_said.set()

    stream._send_heartbeat = say_and_count  # type: ignore[method-assign]
    with anyio.fail_after(10):
        await are_said.wait()


def arenas_mapped() -> set[str]:
    """The inodes of arenas this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:penstock" in line}


async def test_a_killed_and_restarted_node_costs_misses_and_no_errors(tmp_path: Path) -> None:
    """C1, B10: kill -9 of the node while the engine looks up: every lookup answers, with a miss while it is away;
    when it is back the client is attached within a second, and stores and hits again.

    Seen to fail with StreamLost not among the excused errors: the lookup in flight raised.
    """
    state, ids = tmp_path / "state", list(range(BLOCKS))
    with served_node(state) as first:
        async with client_of(first.address) as client:
            await client.store(TOKENS, [paged()], [ids])
            full = (await client.lookup(TOKENS)).hit_chunks
            assert full == len(TOKENS) // client.chunk_tokens
            hits: list[int] = []
            is_over = anyio.Event()

            async def look_up_all_the_time() -> None:
                while not is_over.is_set():
                    async with await client.lookup(TOKENS) as ticket:
                        hits.append(ticket.hit_chunks)
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look_up_all_the_time)

                async def has_looked() -> bool:
                    return len(hits) > 20

                await eventually(has_looked, within=5, what="twenty lookups")
                first.kill()
                killed_at = len(hits)

                async def has_missed() -> bool:
                    return 0 in hits[killed_at:]

                await eventually(has_missed, within=5, what="a miss")
                with served_node(state) as second:
                    begin = time.monotonic()
                    await client.wait_attached(within=1.0)
                    assert time.monotonic() - begin < 1.0
                    assert (await client.lookup(TOKENS)).hit_chunks == 0  # another epoch: empty
                    await client.store(TOKENS, [paged()], [ids])
                    assert (await client.lookup(TOKENS)).hit_chunks == full
                    assert second.stat().sessions == 1
                    is_over.set()
            assert client.statistics().attachments == 2


async def test_a_message_beyond_the_transports_bound_costs_misses_until_the_client_is_back() -> (
    None
):
    """C10: gRPC ends the stream of a client that comes to that bound. It attaches again by itself, hits what it had
    stored, and another client has not noticed.

    Seen to fail with a client that attaches only once: it never hit again.
    """
    ids = list(range(BLOCKS))
    async with (
        local_node(
            gateway__message_max="64KiB",
            gateway__transport_message_max="1MiB",
            gateway__heartbeat="60s",
        ) as node,
        client_of(node.address) as client,
        client_of(node.address) as other,
    ):
        await client.store(TOKENS, [paged()], [ids])
        full = len(TOKENS) // client.chunk_tokens
        call = client._link.current()._stream._call
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(bytes(2 << 20))
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for _ in range(20):
            async with await client.lookup(TOKENS) as ticket:  # a miss or a hit, never an error
                assert ticket.hit_chunks in {0, full}
        await client.wait_attached(within=2.0)
        async with await client.lookup(TOKENS) as ticket:
            assert ticket.hit_chunks == full
        assert client.statistics().attachments == 2
        assert other.statistics().attachments == 1


async def test_the_dead_nodes_arena_is_unmapped(tmp_path: Path) -> None:
    """C11: the engine lets go of the old arena when its stream ends, so that memory does not double.

    Seen to fail with the mapping kept until the next attach.
    """
    others = arenas_mapped()  # of tests before, which may go at any time
    with served_node(tmp_path / "state", l1__bytes=64 * MIB) as node:
        async with client_of(node.address) as client:
            await client.store(TOKENS, [paged()], [list(range(BLOCKS))])
            (ours,) = arenas_mapped() - others
            node.kill()

            async def is_unmapped() -> bool:
                return ours not in arenas_mapped()

            await eventually(is_unmapped, within=3, what="the dead node's arena is unmapped")


async def test_leases_of_another_epoch_are_refused(tmp_path: Path) -> None:
    """C11: what was granted by the node before is nothing to the node after; resuming its session resumes nothing."""
    state, instance = tmp_path / "state", b"a" * 16
    with served_node(state) as first:
        async with attached(first.address, hello(instance=instance)) as engine:
            await engine.put(keys(2))
            ticket = (await engine.lookup(keys(2))).lookup.ticket
            lease = (await engine.acquire(ticket)).acquired.lease
            before = engine.welcome
            first.kill()
    with served_node(state) as second:
        again = hello(instance=instance, resume=before.session_secret, epoch=before.epoch)
        async with attached(second.address, again) as engine:
            assert engine.welcome.epoch != before.epoch
            assert engine.welcome.gave_up == 0
            assert not (await engine.release(lease)).released.ok
            assert (await engine.acquire(ticket)).error.code == wire.ERROR_CODE_STALE
            assert (await engine.lookup(keys(2))).lookup.hit_chunks == 0


async def test_a_starting_node_waits_for_memory_and_says_so(tmp_path: Path) -> None:
    """C11: while an engine still holds the dead node's memory, the next one waits, says what for, and then refuses.

    Seen to fail without `_wait_for_memory`: the node started and the machine ran out.
    """
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    reserve = machine_bytes - 8 * MIB  # never free beside an arena: somebody always holds some
    command = serve_command(
        tmp_path / "state", l1__memory_reserve=reserve, l1__memory_within="300ms"
    )
    ended = await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    )
    assert ended.returncode == 2, ended
    assert "waiting_for_memory" in ended.stderr
    assert "l1.bytes" in ended.stderr.splitlines()[-1]
    assert not list((tmp_path / "state").glob("*.sock"))


async def test_an_idle_client_is_never_reaped() -> None:
    """B10: liveness is the stream and not the traffic: many silent heartbeats later the session is the same.

    Seen to fail with three silent heartbeats ending a Unix session too, whatever was heard.
    """
    async with local_node(gateway__heartbeat="20ms") as node, client_of(node.address) as client:
        await client.store(TOKENS, [paged()], [list(range(BLOCKS))])
        await heartbeats_of(client, 25)  # that nothing else happens is what is shown
        assert client.is_attached
        assert client.statistics().attachments == 1
        assert (await client.lookup(TOKENS)).hit_chunks > 0
        assert (await client.stat()).sessions == 1


async def test_an_idle_client_over_tcp_keeps_its_session_by_heartbeats() -> None:
    """B10: over TCP, too: the client's heartbeats stand for its process.

    Seen to fail with what was heard not noted.
    """
    listen = [{"address": "127.0.0.1:0"}]
    async with (
        local_node(gateway__heartbeat="50ms", gateway__listen=listen) as node,
        client_of(node.address) as client,
    ):
        await heartbeats_of(client, 12)  # four times what ends a silent stream
        assert client.statistics().attachments == 1
        assert (await client.stat()).sessions == 1
