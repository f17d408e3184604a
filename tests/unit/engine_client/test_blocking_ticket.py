"""Tickets and leases in the hands of threads: they wait, look, read and give up without a loop."""

from __future__ import annotations

import gc
import inspect
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from support.eventually import eventually_sync

from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.blocking_ticket import BlockingLease, BlockingTicket
from penstock.actors.engine.blocking_transfer import BlockingTransfer
from penstock.actors.engine.client import Client, Loaded
from penstock.actors.engine.errors import BadBlocks, ClientClosed, RequestRefused, StaleGrant
from penstock.actors.engine.leases import ReadLease
from penstock.actors.engine.pushes import PdTransfer
from penstock.actors.engine.pushing_process import PushingProcess
from penstock.actors.engine.ticket import Ticket
from penstock.protos import common_pb2, engine_pb2
from penstock.runtime.errors import CallerError

pytestmark = pytest.mark.loop_step_ms(50)

TOKENS = list(range(100, 100 + 50))
BLOCKS = list(range(12))


@pytest.fixture
def opening(nodes):
    """Lookups find the first of three chunks, and two are on their way. Gives what tells the client of more."""

    async def half(request, reply) -> None:
        reply.lookup.ticket = b"t" * 16
        reply.lookup.total_chunks, reply.lookup.hit_chunks = 3, 1
        reply.lookup.promised_chunks = 3

    nodes.node.overrides["lookup"] = half

    def tell(hit_chunks: int, *, final: bool = False) -> None:
        news = engine_pb2.Progress(
            ticket=b"t" * 16, hit_chunks=hit_chunks, promised_chunks=3, final=final
        )
        nodes.run(nodes.node.streams[0].send(engine_pb2.SessionReply(progress=news)))

    return tell


def public(kind: type) -> set[str]:
    kinds = (kind, PushingProcess) if kind is Client else (kind,)
    return {name for one in kinds for name in vars(one) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("blocking", "asynchronous", "other"),
    [
        (
            BlockingTicket,
            Ticket,
            {"on", "acquire_alone", "cancel_nowait", "advance", "lose"}
            | {"wait_moved", "ready_within_s"},
        ),
        (BlockingLease, ReadLease, set()),
        (BlockingTransfer, PdTransfer, {"cancel_nowait", "over"}),
        (BlockingClient, Client, {"close"}),
    ],
)
def test_threads_can_do_whatever_a_task_can(blocking, asynchronous, other) -> None:
    """Seen to fail: a ticket of the blocking client had nothing to acquire with, and nothing to see progress by."""
    there = (
        public(asynchronous) | {"total_chunks"} if asynchronous is Ticket else public(asynchronous)
    )
    assert there - public(blocking) <= other
    assert public(blocking) - there <= {*other, "is_over", "first_chunk", "chunks", "drop"} | {
        *("stat", "health", "wait_attached", "is_attached", "chunk_tokens", "statistics", "connect")
    }
    assert not [name for name, one in vars(blocking).items() if inspect.iscoroutinefunction(one)]


def test_progress_is_watched_by_a_thread(nodes, blocking, opening) -> None:
    """The watermark as it is, whenever it has moved, and to its end: what `async for` gives a task."""
    ticket = blocking.lookup(TOKENS).result(5)
    watching = ticket.progress(within=10)
    assert next(watching) == 1
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, watching)
        eventually_sync(lambda: blocking._thread.waiting == 1, within=5, what="it waits")
        opening(2)
        assert coming.result(5) == 2
        ready = ticket.ready()
        assert not ready.done()
        opening(3, final=True)
        assert list(watching) == [3]
        assert ready.result(5) == 3
    assert ticket.is_final
    assert list(ticket.progress()) == [3]


def test_watching_ends_in_time(blocking, opening) -> None:
    """B8: seen to fail with the time that is left not counted down: it waited for ever."""
    ticket = blocking.lookup(TOKENS).result(5)
    assert list(ticket.progress(within=0.05)) == [1]
    assert list(ticket.progress(within=0)) == [1]
    assert not ticket.is_final
    assert blocking._thread.waiting == 0


def test_a_callback_that_would_wait_for_itself_is_told_so(blocking, opening) -> None:
    """B3: seen to hang: the client's own thread waited for what it was to do itself."""
    told: Future[Exception] = Future()

    def watch(found: Future[BlockingTicket]) -> None:
        with pytest.raises(CallerError, match="another thread") as refused:
            list(found.result(0).progress(within=10))
        told.set_result(refused.value)

    blocking.lookup(TOKENS).add_done_callback(watch)
    assert "callback" in str(told.result(5))
    assert blocking.stat().result(5).epoch


def test_a_lease_is_acquired_copied_under_and_released(blocking, engine, other_engine) -> None:
    blocking.store(TOKENS, [engine.layout], [BLOCKS]).result(5)
    with blocking.lookup(TOKENS).result(5) as ticket:
        with ticket.acquire(0, 1).result(5) as lease:
            assert (lease.first_chunk, lease.chunks, lease.is_over) == (1, 2, False)
            lease.copy_to([other_engine.layout], [BLOCKS], layers=range(1)).result(5)
            lease.copy_to([other_engine.layout], [BLOCKS], layers=range(1, 2)).result(5)
            assert lease.release(skip_tokens=16).result(5).tokens == 32
            assert lease.is_over
        with pytest.raises(StaleGrant):
            lease.release().result(5)
        with ticket.acquire().result(5) as lease, pytest.raises(BadBlocks):
            lease.copy_to([other_engine.layout], [[0]]).result(5)
    assert np.array_equal(other_engine.of(BLOCKS[4:]), engine.of(BLOCKS[4:]))


def test_ends_of_blocks_give_everything_back(nodes, blocking, engine) -> None:
    """Whatever is not ended by hand is ended by `with`, or by nobody's referring to it any more."""
    blocking.store(TOKENS, [engine.layout], [BLOCKS]).result(5)
    with blocking.lookup(TOKENS).result(5) as ticket, ticket.acquire().result(5):
        assert len(nodes.node.tickets) == len(nodes.node.leases) == 1
    nodes.run(nodes.node.wait_for("cancel"))
    nodes.run(nodes.node.wait_for("release"))
    forgotten = blocking.lookup(TOKENS).result(5)
    reading = forgotten.acquire().result(5)
    del forgotten, reading
    gc.collect()
    nodes.run(nodes.node.wait_for("cancel", 2))
    nodes.run(nodes.node.wait_for("release", 2))
    assert nodes.node.tickets == nodes.node.leases == {}


def test_a_cancelled_ticket_is_over_for_what_is_asked_later(blocking, engine) -> None:
    """Seen to fail with nothing handed over to the client's thread: the load brought 48 tokens."""
    blocking.store(TOKENS, [engine.layout], [BLOCKS]).result(5)
    ticket = blocking.lookup(TOKENS).result(5)
    ticket.cancel()
    assert blocking.load(ticket, [engine.layout], [BLOCKS]).result(5) == Loaded()
    assert ticket.is_over
    ticket.cancel()
    with pytest.raises(StaleGrant):
        ticket.acquire().result(5)


def test_after_the_client_there_is_nothing_to_wait_for(nodes, config, spec, opening) -> None:
    client = BlockingClient.connect(config, spec)
    ticket = client.lookup(TOKENS).result(5)
    watched: list[int] = []

    def watch() -> None:
        with pytest.raises(ClientClosed):
            watched.extend(ticket.progress(within=30))
        watched.append(-1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    eventually_sync(lambda: client._thread.waiting == 1, within=5, what="it waits")
    client.close()
    watcher.join(5)
    assert watched == [1, -1]
    ticket.cancel()  # never fails
    assert (ticket.is_over, ticket.hit_chunks) == (True, 1)
    with pytest.raises(ClientClosed):
        ticket.ready()


def test_another_clients_ticket_is_refused(blocking, config, spec, engine) -> None:
    """B2: seen to fail: one client's loop ran what belongs to the other's."""
    blocking.store(TOKENS, [engine.layout], [BLOCKS]).result(5)
    ticket = blocking.lookup(TOKENS).result(5)
    with BlockingClient.connect(config, spec) as other:
        with pytest.raises(CallerError, match="another client"):
            other.load(ticket, [engine.layout], [BLOCKS]).result(5)
        joined = other.join(ticket.handle).result(5)
        assert other.load(joined, [engine.layout], [BLOCKS]).result(5).tokens == 48


def test_a_pin_of_a_prefetch_is_a_ticket_for_threads(nodes, blocking) -> None:
    async def pinned(request, reply) -> None:
        reply.prefetched.total_chunks = reply.prefetched.promised_chunks = 3
        reply.prefetched.ticket = b"p" * 16

    nodes.node.overrides["prefetch"] = pinned
    found = blocking.prefetch(TOKENS, pin_s=5).result(5)
    assert isinstance(found.ticket, BlockingTicket)
    assert (found.promised_chunks, found.ticket.promised_chunks) == (3, 3)
    waiting = found.ticket.ready()
    assert waiting.cancel()
    nodes.node.tickets[b"p" * 16] = b""
    found.ticket.cancel()
    nodes.run(nodes.node.wait_for("cancel"))


def test_what_the_node_refuses_to_lend_is_an_error_of_the_future(nodes, blocking, engine) -> None:
    blocking.store(TOKENS, [engine.layout], [BLOCKS]).result(5)
    nodes.node.refusals["acquire"] = common_pb2.Error(
        code=common_pb2.ERROR_CODE_INVALID, message="no"
    )
    ticket = blocking.lookup(TOKENS).result(5)
    with pytest.raises(RequestRefused):
        ticket.acquire(rank=7).result(5)
