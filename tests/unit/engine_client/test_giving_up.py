"""Giving up at any await leaks nothing: no ticket, no lease, no room, and no copy that outlives its lease."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import anyio
import pytest

from penstock.actors.engine.client import Client
from penstock.actors.engine.copying import Batch
from penstock.runtime.errors import CallerError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.loop_step_ms(50),  # the scripted node and its arena live in the same loop
]

TOKENS = list(range(100, 100 + 50))
BLOCKS = list(range(12))


async def settled(node, client: Client) -> None:
    """Everything said so far has been answered, and what undoes it too."""
    await client.stat(within=5)
    await client.stat(within=5)


def held(node) -> tuple[int, int]:
    return len(node.tickets), len(node.leases)


class SlowCopy:
    """Copies begin, and do not end before `may_end` is set."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.may_end = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._run = Batch.run

    def run(self, batch, copier, mapping):
        self._loop.call_soon_threadsafe(self.began.set)
        assert self.may_end.wait(5)
        return self._run(batch, copier, mapping)

    async def wait_began(self) -> None:
        with anyio.fail_after(5):
            await self.began.wait()


@pytest.fixture
async def slow_copy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowCopy]:
    slow = SlowCopy()
    monkeypatch.setattr(Batch, "run", lambda *args: slow.run(*args))  # noqa: PLW0108 - bound to Batch
    yield slow
    slow.may_end.set()


async def stored(client: Client, engine, slow: SlowCopy) -> None:
    """Have TOKENS resident; only later copies are slow."""
    slow.may_end.set()
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    slow.may_end.clear()
    slow.began = anyio.Event()


@pytest.mark.parametrize("kind", ["lookup", "acquire", "release"])
async def test_giving_up_a_load_at_any_reply(node, client, engine, kind) -> None:
    """Seen to fail when an abandoned request is forgotten instead of undone."""
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    node.hold(kind)

    async def read() -> None:
        async with await client.lookup(TOKENS) as ticket:
            await client.load(ticket, [engine.layout], [BLOCKS])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await node.wait_for(kind)
        tasks.cancel_scope.cancel()
    await node.let_go(kind)
    await settled(node, client)
    assert held(node) == (0, 0)


@pytest.mark.parametrize("kind", ["reserve", "commit"])
async def test_giving_up_a_store_at_any_reply(node, client, engine, kind) -> None:
    node.hold(kind)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.store, TOKENS, [engine.layout], [BLOCKS])
        await node.wait_for(kind)
        tasks.cancel_scope.cancel()
    await node.let_go(kind)
    await settled(node, client)
    assert held(node) == (0, 0)


async def test_giving_up_before_the_request_was_sent(node, client) -> None:
    """It never is."""
    node.hold("lookup")
    async with anyio.create_task_group() as tasks:
        for _ in range(node.limits.inflight_max + 5):
            tasks.start_soon(client.lookup, TOKENS)
        await node.wait_for("lookup", node.limits.inflight_max)
        tasks.cancel_scope.cancel()
    await node.let_go("lookup")
    await settled(node, client)
    assert node.count("lookup") == node.limits.inflight_max
    assert held(node) == (0, 0)


@pytest.mark.parametrize("direction", ["load", "store"])
async def test_a_copy_ends_before_its_lease_does(
    node, client, engine, slow_copy, direction
) -> None:
    """The node would give the memory to somebody else. Seen to fail when `Mover.copy` is a plain `to_thread`."""
    if direction == "load":
        await stored(client, engine, slow_copy)
    ends = "release" if direction == "load" else "abort"
    ticket = await client.lookup(TOKENS)
    arena = client._link.current().arena
    task = asyncio.ensure_future(
        client.load(ticket, [engine.layout], [BLOCKS])
        if direction == "load"
        else client.store(TOKENS, [engine.layout], [BLOCKS])
    )
    await slow_copy.wait_began()
    task.cancel()  # as asyncio.wait_for would, past all of anyio's shields
    await client.stat()
    task.cancel()  # and again
    await client.stat()
    assert not task.done()
    assert node.count(ends) == 0
    assert len(node.leases) == 1
    slow_copy.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(node, client)
    assert node.count(ends) == 1
    assert node.leases == {}
    assert arena._copies == 0


async def test_a_copy_whose_turn_has_not_come_is_given_up_at_once(
    node, config, spec, engine, slow_copy
) -> None:
    config = type(config)(address=config.address, copies_max=1)
    async with node.serving(), Client.connect(config, spec) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.store, TOKENS, [engine.layout], [BLOCKS])
            await slow_copy.wait_began()
            with anyio.move_on_after(0.05):
                await client.store(TOKENS, [engine.layout], [BLOCKS], salt=b"other")
            await node.wait_for("abort")
            assert len(node.leases) == 1
            slow_copy.may_end.set()
        assert node.leases == {}


async def test_a_release_given_up_before_it_was_sent_is_sent_all_the_same(
    node, client, engine
) -> None:
    """Seen to fail when it is treated as any other request that nobody waits for."""
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    lease = await (await client.lookup(TOKENS)).acquire()
    node.hold("lookup")
    async with anyio.create_task_group() as tasks:
        for _ in range(node.limits.inflight_max):
            tasks.start_soon(client.lookup, TOKENS)
        await node.wait_for("lookup", node.limits.inflight_max)
        with anyio.move_on_after(0.01) as scope:
            await lease.release()  # stays in the queue: nothing more may be unanswered
        assert scope.cancelled_caught
        assert node.count("release") == 0
        await node.let_go("lookup")
    await node.wait_for("release")
    assert node.leases == {}


async def test_giving_up_an_acquire_leaves_the_lease_somebody_else_holds(
    node, client, engine
) -> None:
    """Acquire is idempotent: the second one is answered with the first one's lease."""
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    ticket = await client.lookup(TOKENS)
    first = await ticket.acquire()
    extents = b"".join(record for records in node.objects.values() for record in records)

    async def again(request, reply) -> None:
        reply.acquired.lease, reply.acquired.chunks = first.name, 3
        reply.acquired.extents = extents

    node.overrides["acquire"] = again
    node.hold("acquire")
    with anyio.move_on_after(0.01):
        await ticket.acquire()
    await node.wait_for("acquire", 2)
    await node.let_go("acquire")
    await settled(node, client)
    assert node.count("release") == 0
    await first.copy_to([engine.layout], [BLOCKS])
    assert (await first.release()).tokens == 48


async def test_a_lease_is_not_released_under_its_own_copy(node, client, engine, slow_copy) -> None:
    await stored(client, engine, slow_copy)
    lease = await (await client.lookup(TOKENS)).acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease.copy_to, [engine.layout], [BLOCKS])
        await slow_copy.wait_began()
        with pytest.raises(CallerError, match="still running"):
            await lease.release()
        slow_copy.may_end.set()
    assert (await lease.release()).tokens == 48


async def test_leaving_waits_for_a_copy_and_gives_its_lease_up(
    node, config, spec, engine, slow_copy
) -> None:
    async with node.serving():
        async with anyio.create_task_group() as tasks, Client.connect(config, spec) as client:
            tasks.start_soon(client.store, TOKENS, [engine.layout], [BLOCKS])
            await slow_copy.wait_began()
            asyncio.get_running_loop().call_later(0.02, slow_copy.may_end.set)
        assert node.count("abort") == 1
        assert node.leases == {}


async def test_dropping_a_lease_under_a_copy_waits_for_it(node, client, engine, slow_copy) -> None:
    await stored(client, engine, slow_copy)
    ticket = await client.lookup(TOKENS)
    lease = await ticket.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease.copy_to, [engine.layout], [BLOCKS])
        await slow_copy.wait_began()
        lease.drop()
        await client.stat()
        assert node.count("release") == 0
        slow_copy.may_end.set()
    await node.wait_for("release")
    assert node.leases == {}


async def test_a_load_beyond_its_deadline_is_a_miss(node, client, engine, monkeypatch) -> None:
    """Between two copies; a copy itself cannot be called off."""
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    ticket = await client.lookup(TOKENS)
    node.hold("acquire")
    loaded = await client.load(ticket, [engine.layout], [BLOCKS], within=0.02)
    assert loaded.tokens == 0
    await node.let_go("acquire")
    await node.wait_for("release")
    assert node.leases == {}
    assert client.statistics().excused == {"load: DeadlineExceeded": 1}


async def test_a_caller_cancelled_in_the_step_of_the_reply_undoes_it(node, client, engine) -> None:
    """The reply has been read and its waiter not yet woken: the ticket must not be lost between the two."""
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    stream = client._link.current()._stream
    hear = stream._hear
    task: asyncio.Future

    def hear_and_cancel(reply) -> None:
        hear(reply)
        if reply.HasField("lookup"):
            task.cancel()

    stream._hear = hear_and_cancel
    task = asyncio.ensure_future(client.lookup(TOKENS))
    with pytest.raises(asyncio.CancelledError):
        await task
    await node.wait_for("cancel")
    assert node.tickets == {}
