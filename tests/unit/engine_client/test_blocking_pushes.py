"""Pushes for engines without an event loop: futures where the asynchronous client is awaited."""

from __future__ import annotations

import pytest

from penstock.actors.api.pd import SentState
from penstock.actors.api.pd_wire import Reason
from penstock.actors.engine.errors import ClientClosed
from penstock.protos import engine_pb2

pytestmark = pytest.mark.loop_step_ms(50)

TOKENS = list(range(100, 100 + 50))
BLOCKS = list(range(12))
COMMITTED = engine_pb2.PdSent(state=engine_pb2.PD_SENT_STATE_COMMITTED, bytes=4096)


def end_all(nodes) -> None:
    """Every push of the node is committed."""

    async def end() -> None:
        for name in nodes.node.pushes:
            nodes.node.pushes[name] = COMMITTED

    nodes.run(end())


def test_a_push_is_begun_and_waited_for_by_threads(nodes, blocking) -> None:
    transfer = blocking.pd_send(TOKENS, target="b", request_id="r1").result(5)
    assert transfer.wait(within=0).result(5).state is SentState.PENDING
    over = transfer.over()
    end_all(nodes)
    assert over.result(5).state is SentState.COMMITTED
    assert (transfer.is_over, transfer.sent.bytes) == (True, 4096)


def test_cancelling_never_waits(nodes, blocking) -> None:
    transfer = blocking.pd_send(TOKENS, target="b", request_id="r1").result(5)
    transfer.cancel()
    assert transfer.over().result(5).reason is Reason.CANCELLED
    blocking.stat().result(5)
    assert not nodes.node.pushes


def test_an_expected_prompt_is_loaded_by_threads(nodes, blocking, engine, other_engine) -> None:
    blocking.store(TOKENS, [engine.layout], [BLOCKS]).result(5)
    with blocking.pd_expect(TOKENS, request_id="r1", readers=1).result(5) as ticket:
        assert (ticket.hit_chunks, ticket.is_final) == (3, False)
        loaded = blocking.load(ticket, [other_engine.layout], [BLOCKS]).result(5)
    assert loaded.tokens == 48
    assert (other_engine.of(BLOCKS) == engine.of(BLOCKS)).all()


def test_who_waits_for_a_push_hears_of_the_end_of_the_client(nodes, blocking) -> None:
    transfer = blocking.pd_send(TOKENS, target="b", request_id="r1").result(5)
    nodes.node.hold("pd_wait")
    over = transfer.over()
    blocking.close()
    with pytest.raises(ClientClosed):
        over.result(5)
    with pytest.raises(ClientClosed):
        transfer.over()
    transfer.cancel()
