"""Scenarios B5, B6: engine processes that die, stop, or leave children behind that hold their sockets open."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from support.declarations import OBJECT_BYTES, hello, keys
from support.engine_process import CHUNKS, engine_process
from support.eventually import eventually
from support.nodes import local_node, nobody_reads
from support.raw_engine import attached

from penstock.actors.api.l1 import Usage
from penstock.actors.node import Node
from penstock.protos import engine_pb2 as pb

pytestmark = [pytest.mark.anyio, pytest.mark.with_stores_too]

HELD = CHUNKS * OBJECT_BYTES


def usage_is(node: Node, check: Callable[[Usage], bool]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return check(await node.usage())

    return look


@pytest.mark.parametrize("child", [[], ["fork"]], ids=["alone", "with a forked child"])
async def test_a_killed_process_holds_nothing_a_second_later(child: list[str]) -> None:
    """B5: kill -9 after lookup, acquire and reserve: pins gone within 1 s, memory back as soon as the pidfd says
    so, though a forked child holds the gRPC and the arena socket open.

    Seen to fail with the pidfd not watched (`_watch` returning at once): with a child the pins stayed for ever,
    without one the reservation stayed quarantined.
    """
    async with local_node() as node:
        async with engine_process(node.address, "put", "read", "pin", "reserve", *child) as engine:
            await nobody_reads(node, leases=2)
            before = await node.usage()
            assert (before.pinned_bytes, before.reserved_bytes) == (HELD, HELD)
            assert (before.leases, before.tickets) == (2, 2)
            engine.kill()
            died = time.monotonic()
            await eventually(
                usage_is(node, lambda now: not (now.pinned_bytes or now.leases or now.tickets)),
                within=1,
                what="its pins are gone",
            )
            await eventually(
                usage_is(node, lambda now: now.free_bytes == now.arena_bytes - HELD),
                within=1,
                what="its memory is back",
            )
            assert time.monotonic() - died < 1.0
            after = await node.usage()
            assert (after.resident_bytes, after.quarantined_bytes) == (HELD, 0)
            assert (after.reserved_bytes, after.overdue_leases) == (0, 0)


async def test_a_child_that_outlives_its_parent_does_not_keep_the_session() -> None:
    """B5: the session is over with the process that opened it; its place is free for the next."""
    async with (
        local_node(sessions__sessions_max=2) as node,
        attached(node.address, hello()) as onlooker,
    ):
        async with engine_process(node.address, "fork") as engine:
            assert (await onlooker.stat()).sessions == 2
            engine.kill()

            async def has_left() -> bool:
                return (await onlooker.stat()).sessions == 1

            await eventually(has_left, within=1, what="the dead process's session is over")
            async with attached(node.address, hello()):
                assert (await onlooker.stat()).sessions == 2


async def test_a_dead_reader_does_not_pin_a_hot_key() -> None:
    """B6: expiry is per lease: a reader that stands still loses its own, while others come and go on the same key.

    Seen to fail with leases that outlive what they were asked for: the key stayed pinned.
    """
    async with local_node(gateway__lease="200ms") as node:
        async with attached(node.address, hello()) as idle, attached(node.address, hello()) as busy:
            await idle.put(keys(1))
            ticket = (await idle.lookup(keys(1), readers=2)).lookup.ticket
            stuck = (await idle.acquire(ticket, rank=0)).acquired
            expired_at = time.monotonic() + 1.0
            while time.monotonic() < expired_at:
                again = (await busy.lookup(keys(1))).lookup.ticket
                lease = (await busy.acquire(again)).acquired
                assert (await busy.release(lease.lease)).released.ok
                await busy.ask(cancel=pb.Cancel(ticket=again))
                if (await node.usage()).overdue_leases:
                    break
            assert (await node.usage()).overdue_leases == 1
            await eventually(
                usage_is(node, lambda now: now.pinned_bytes == 0),
                within=5,  # where it is being saved, that reads it, too
                what="nobody pins it",
            )
            assert not (await idle.release(stuck.lease)).released.ok


async def test_a_stopped_process_is_overdue_and_keeps_its_memory_until_it_lets_go() -> None:
    """B6, DESIGN 8: SIGSTOP: its leases run out, nothing it may still touch is given away; when it is killed, it is.

    Seen to fail with `expire` freeing reservations: their memory was free while the process stood still.
    """
    async with local_node() as node:
        async with engine_process(node.address, "put", "short", "read", "reserve") as engine:
            engine.process.send_signal(signal.SIGSTOP)
            await eventually(
                usage_is(node, lambda now: now.overdue_leases == 2 and now.leases == 0),
                within=2,
                what="its leases are overdue",
            )
            stopped = await node.usage()
            assert (stopped.reserved_bytes, stopped.quarantined_bytes) == (0, HELD)
            assert stopped.free_bytes == stopped.arena_bytes - 2 * HELD
            async with attached(node.address, hello()) as other:
                found = (await other.lookup(keys(CHUNKS, prompt="new"))).lookup
                assert found.hit_chunks == 0
                await other.put(keys(CHUNKS, prompt="new"))  # other memory, since this is held
            engine.kill()
            await eventually(
                usage_is(node, lambda now: now.quarantined_bytes == 0 and now.overdue_leases == 0),
                within=1,
                what="its memory is back",
            )


async def test_a_process_that_leaves_in_order_leaves_nothing_behind() -> None:
    async with local_node() as node, attached(node.address, hello()) as onlooker:
        async with attached(node.address, hello()) as engine:
            await engine.put(keys(2))
            await engine.lookup(keys(2))
        await eventually(
            usage_is(node, lambda now: now.tickets == 0 and now.pinned_bytes == 0),
            within=1,
            what="its ticket is closed",
        )

        async def has_left() -> bool:
            return (await onlooker.stat()).sessions == 1

        await eventually(has_left, within=1, what="its session is over")


async def test_a_resumed_session_gives_up_what_the_lost_one_held() -> None:
    """DESIGN 5: a living owner that attaches again says it touches nothing any more: the memory is free at once."""
    instance = b"a" * 16
    async with local_node() as node:
        async with attached(node.address, hello(instance=instance)) as engine:
            await engine.reserve(keys(2))
            engine.call.cancel()
            await eventually(
                usage_is(node, lambda now: now.quarantined_bytes == 2 * OBJECT_BYTES),
                within=1,
                what="what it reserved is quarantined",
            )
            again = hello(
                instance=instance,
                resume=engine.welcome.session_secret,
                epoch=engine.welcome.epoch,
            )
            async with attached(node.address, again) as resumed:
                assert resumed.welcome.gave_up == 1
                assert (await node.usage()).quarantined_bytes == 0
                assert (await resumed.stat()).sessions == 1


@pytest.mark.parametrize("wrong", ["secret", "epoch", "instance"])
async def test_nobody_gives_up_what_is_not_theirs(wrong: str) -> None:
    """D3: to resume takes the session's own secret, epoch and instance; anything else resumes nothing."""
    async with local_node() as node, attached(node.address, hello(instance=b"a" * 16)) as engine:
        await engine.reserve(keys(2))
        again = hello(
            instance=b"b" * 16 if wrong == "instance" else b"a" * 16,
            resume=b"s" * 32 if wrong == "secret" else engine.welcome.session_secret,
            epoch=b"e" * 16 if wrong == "epoch" else engine.welcome.epoch,
        )
        async with attached(node.address, again) as thief:
            assert thief.welcome.gave_up == 0
            usage = await node.usage()
            assert (usage.reserved_bytes, usage.leases) == (2 * OBJECT_BYTES, 1)


async def test_hanging_up_in_any_moment_leaves_no_session_behind() -> None:
    """B5: gRPC cancels the node's task of a stream whenever it likes, the telling of the end included.

    Seen to fail with StreamEnded told after an await inside a shielded anyio scope: gRPC's own cancellation went
    through it, and of a hundred sessions some were attached for ever.
    """
    async with local_node() as node, attached(node.address, hello()) as onlooker:
        for round_ in range(100):
            async with attached(node.address, hello(), enter=False) as engine:
                await engine.begin(lookup=pb.Lookup(prompt=pb.Prompt(keys=keys(1)), readers=1))
                if round_ % 2:
                    await engine.call.done_writing()

        async def all_left() -> bool:
            return (await onlooker.stat()).sessions == 1

        await eventually(all_left, within=2, what="all sessions but one are over")
        assert (await node.usage()).tickets == 0
