"""The client for engines without an event loop: futures, threads, and an end for every one of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import pytest
from support.eventually import eventually_sync

from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import ClientConfig, Loaded
from penstock.actors.engine.client_thread import ClientThread
from penstock.actors.engine.errors import (
    ClientClosed,
    ClientCrashed,
    NodeAway,
    RequestRefused,
    TooManyWaiting,
)
from penstock.protos import common_pb2

pytestmark = pytest.mark.loop_step_ms(50)

TOKENS = list(range(100, 100 + 50))
BLOCKS = list(range(12))


@contextmanager
def crashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bug outside of the requests themselves, and no noise of the thread that dies of it."""

    async def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(ClientThread, "_serve", bug)
        patch.setattr(threading, "excepthook", lambda _: None)
        yield


def test_store_look_up_load(blocking, engine, other_engine) -> None:
    assert blocking.store(TOKENS, [engine.layout], [BLOCKS]).result().chunks_written == 3
    ticket = blocking.lookup(TOKENS, request_id="r").result()
    assert (ticket.hit_chunks, ticket.ready().result()) == (3, 3)
    assert blocking.load(ticket, [other_engine.layout], [BLOCKS]).result().tokens == 48
    assert np.array_equal(other_engine.of(BLOCKS), engine.of(BLOCKS))
    assert blocking.touch(TOKENS).result() == 3
    assert blocking.prefetch(TOKENS).result().total_chunks == 3
    assert blocking.join(ticket.handle).result().hit_chunks == 3
    assert blocking.health().result().state != 0
    ticket.cancel()
    assert blocking.load(ticket, [engine.layout], [BLOCKS]).result() == Loaded()
    assert blocking.stat().result().epoch
    assert blocking.statistics().stored_chunks == 3
    assert blocking.is_attached


def test_many_threads_may_use_it(nodes, blocking) -> None:
    with ThreadPoolExecutor(8) as pool:
        tickets = list(pool.map(lambda _: blocking.lookup(TOKENS).result(), range(64)))
    assert all(ticket.total_chunks == 3 for ticket in tickets)
    assert nodes.node.count("lookup") == 64


def test_the_callers_own_faults_are_errors_of_the_future(nodes, blocking) -> None:
    error = common_pb2.Error(code=common_pb2.ERROR_CODE_INVALID, message="no")
    nodes.node.refusals["lookup"] = error
    with pytest.raises(RequestRefused):
        blocking.lookup(TOKENS).result()
    nodes.node.refusals.clear()
    assert blocking.lookup(TOKENS).result().total_chunks == 3


def test_cancelling_a_future_gives_the_request_up(nodes, blocking, engine) -> None:
    blocking.store(TOKENS, [engine.layout], [BLOCKS]).result()
    nodes.hold("lookup")
    future = blocking.lookup(TOKENS)
    nodes.run(nodes.node.wait_for("lookup"))
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    assert future in wait([future], timeout=5).done
    nodes.run(nodes.node.let_go("lookup"))
    nodes.run(nodes.node.wait_for("cancel"))
    assert nodes.node.tickets == {}
    blocking.stat().result()
    assert blocking._thread.waiting == 0


def test_more_requests_than_waiting_max_are_refused_by_its_name(node, nodes, spec) -> None:
    """B2: seen to fail: an engine that never looks at its futures had as many as it liked."""
    config = ClientConfig(address=node.address, waiting_max=2)
    nodes.hold("lookup")
    with BlockingClient.connect(config, spec) as client:
        first, second = (client.lookup(TOKENS, within=60) for _ in range(2))
        nodes.run(nodes.node.wait_for("lookup", 2))
        for request in (client.stat, lambda: client.lookup(TOKENS)):
            with pytest.raises(TooManyWaiting, match="waiting_max"):
                request()
        first.cancel()
        eventually_sync(lambda: client._thread.waiting == 1, within=5, what="it is given up")
        assert client.stat().result(5).epoch
        nodes.run(nodes.node.let_go("lookup"))
        assert second.result(5).total_chunks == 3
        assert client._thread.waiting == 0


def test_what_is_done_soon_is_done_in_the_threads_own_context(blocking) -> None:
    """Whoever gives a ticket up may have a context of another loop, and its values must not be kept alive here.

    Seen to fail while it ran in a copy of the caller's context, as no request does.
    """
    callers = ContextVar("callers", default="nobody's")
    callers.set("the caller's")
    seen: Future[str] = Future()
    blocking._thread.do_soon(lambda: seen.set_result(callers.get()))
    assert seen.result(5) == "nobody's"


def test_closing_settles_what_is_under_way(nodes, config, spec) -> None:
    nodes.hold("lookup")
    client = BlockingClient.connect(config, spec)
    futures: list[Future] = [client.lookup(TOKENS, within=60) for _ in range(3)]
    nodes.run(nodes.node.wait_for("lookup", 3))
    client.close()
    for future in futures:
        with pytest.raises(ClientClosed):
            future.result(0)
    with pytest.raises(ClientClosed):
        client.lookup(TOKENS)
    client.close()  # twice is once


def test_a_bug_settles_every_future_and_hangs_nobody(nodes, config, spec, monkeypatch) -> None:
    """Seen to hang when `_settle_all` is left out."""
    nodes.hold("lookup")
    client = BlockingClient.connect(config, spec)
    waiting = client.lookup(TOKENS, within=60)
    with crashing(monkeypatch):
        crashed = client.touch(TOKENS)
        for future in (waiting, crashed):
            with pytest.raises(ClientCrashed, match="ZeroDivisionError"):
                future.result(5)
        client._thread._thread.join(5)
    with pytest.raises(ClientCrashed, match="make a new one"):
        client.lookup(TOKENS)
    client.close()


def test_without_a_node_connecting_raises(node, spec) -> None:
    config = ClientConfig(address=node.address, attach_within_s=0.05)
    with pytest.raises(NodeAway):
        BlockingClient.connect(config, spec)
    assert not [one for one in threading.enumerate() if one.name == "penstock client"]


def test_closing_from_a_callback_does_not_wait_for_itself(nodes, config, spec) -> None:
    client = BlockingClient.connect(config, spec)
    done = threading.Event()
    future = client.lookup(TOKENS)
    future.add_done_callback(lambda _: (client.close(), done.set()))
    assert done.wait(5)
    client._thread._thread.join(5)
    assert not client._thread.is_alive


PROGRAM = """
import sys
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import ClientConfig, Start, new_engine_instance, plain_model
spec = plain_model(weights="m@" + "0" * 40, model_config_digest=bytes(32), layers=1, kv_heads=1,
                   head_size=16, dtype="float32", block_tokens=16,
                   engine_instance=new_engine_instance())
client = BlockingClient.connect(ClientConfig(address=sys.argv[1], start=Start.DETACHED), spec)
"""
ASKS = """
client.lookup([1, 2, 3]).result()
print("leaving")
"""
CONNECTS_WHEN_IT_LEAVES = """
import atexit, threading
from grpc import aio
connect, is_leaving = aio.insecure_channel, threading.Event()
def connect_then(*args):
    assert is_leaving.wait(10)
    return connect(*args)
aio.insecure_channel = connect_then
"""
LEAVES = """
atexit.register(is_leaving.set)
print("leaving")
"""


@pytest.mark.parametrize("program", [PROGRAM + ASKS, CONNECTS_WHEN_IT_LEAVES + PROGRAM + LEAVES])
def test_a_process_that_forgets_to_close_ends_all_the_same(node, program) -> None:
    """Seen to fail on Python 3.12, by a segmentation fault where it was connecting just then: gRPC starts a thread for
    the first of its channels, which an exiting process cannot do there."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, node.address],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "leaving\n"), done.stderr
    assert "Traceback" not in done.stderr
