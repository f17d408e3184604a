"""What prefill and decode engines ask of their nodes: a push is begun and followed, an expected prompt is a ticket.

The same against real nodes is in tests/integration: pd_two_nodes, pd_clients.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import anyio
import pytest

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.pd import SentState
from penstock.actors.api.pd_wire import Reason
from penstock.actors.engine import pushing_process
from penstock.actors.engine.client import Client
from penstock.actors.engine.errors import MovesNoBytes, RequestRefused
from penstock.protos import common_pb2, engine_pb2, pd_pb2
from penstock.runtime.deadline import deadline_within

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.loop_step_ms(50),  # the scripted node and its arena live in the same loop
]

TOKENS = list(range(100, 100 + 50))  # three chunks and a rest
BLOCKS = list(range(12))
PUSH = {"target": "b", "request_id": "r1"}


def sent(state: int, **fields: object) -> engine_pb2.PdSent:
    return engine_pb2.PdSent(state=state, **fields)  # type: ignore[arg-type]


def tell(node, state: int, **fields: object) -> None:
    """What every push of the node has come to."""
    for name in node.pushes:
        node.pushes[name] = sent(state, **fields)


async def progress(node, ticket: bytes, hit: int, *, final: bool = False) -> None:
    news = engine_pb2.Progress(ticket=ticket, hit_chunks=hit, promised_chunks=3, final=final)
    await node.streams[-1].send(engine_pb2.SessionReply(progress=news))


async def test_a_push_names_its_prompt_and_is_followed_to_its_end(client, node) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH, priority=3, transfer_s=2.5)
    asked = node.last("pd_send").pd_send
    assert (asked.request_id, asked.target, asked.priority) == ("r1", "b", 3)
    assert (asked.within_ms, len(asked.prompt.keys)) == (2500, 96)
    assert not transfer.is_over
    assert (await transfer.wait(within=0)).state is SentState.PENDING
    tell(node, engine_pb2.PD_SENT_STATE_COMMITTED, bytes=4096, held_bytes=8192)
    outcome = await transfer
    assert (outcome.state, outcome.reason) == (SentState.COMMITTED, None)
    assert (outcome.bytes, outcome.held_bytes) == (4096, 8192)
    waits = node.count("pd_wait")
    assert await transfer is outcome
    assert node.count("pd_wait") == waits  # what is over is not asked for again


async def test_waiting_goes_on_until_the_push_is_over(client, node) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH)
    asked = 0

    async def later(_: object, reply: engine_pb2.SessionReply) -> None:
        nonlocal asked
        asked += 1
        state = engine_pb2.PD_SENT_STATE_FAILED if asked > 2 else engine_pb2.PD_SENT_STATE_PENDING
        reason = pd_pb2.PD_REASON_NO_ROOM if asked > 2 else pd_pb2.PD_REASON_UNSPECIFIED
        reply.pd_wait.CopyFrom(sent(state, reason=reason, text="the budget was taken"))

    node.overrides["pd_wait"] = later
    outcome = await transfer
    assert (outcome.state, outcome.reason) == (SentState.FAILED, Reason.NO_ROOM)
    assert (outcome.text, asked) == ("the budget was taken", 3)


async def test_a_deadline_around_the_wait_ends_it(client, node) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH)
    node.hold("pd_wait")
    with anyio.fail_after(5), deadline_within(0.05):
        assert (await transfer).state is SentState.PENDING
    assert not transfer.is_over


async def test_a_reason_that_is_not_known_is_none(client, node) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH)
    tell(node, engine_pb2.PD_SENT_STATE_FAILED, reason=99)
    outcome = await transfer
    assert (outcome.state, outcome.reason) == (SentState.FAILED, None)


async def test_cancelling_is_told_once_and_so_is_giving_up_the_request(client, node) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH)
    await transfer.cancel()
    transfer.cancel_nowait()
    assert (await transfer).reason is Reason.CANCELLED
    await node.wait_for("pd_cancel")
    assert not node.pushes
    node.hold("pd_send")
    with anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.pd_send(TOKENS, **PUSH, within=5))
            await node.wait_for("pd_send", 2)
            tasks.cancel_scope.cancel()
        await node.let_go("pd_send")
        await node.wait_for("pd_cancel", 2)
    assert not scope.cancelled_caught
    assert not node.pushes


async def test_a_lost_session_is_the_end_of_what_is_known_of_its_pushes(client, node) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH)
    await node.drop_streams()
    outcome = await transfer
    assert (outcome.state, outcome.reason) == (SentState.FAILED, None)
    assert "not known" in outcome.text


async def test_a_node_that_takes_on_no_more_is_a_push_that_failed(client, node) -> None:
    node.refusals["pd_send"] = common_pb2.Error(
        code=common_pb2.ERROR_CODE_EXHAUSTED, message="256 pushes are under way"
    )
    outcome = await client.pd_send(TOKENS, **PUSH)
    assert outcome.sent.state is SentState.FAILED
    assert client.statistics().excused == {"pd_send: NodeExhausted": 1}
    node.refusals["pd_expect"] = node.refusals["pd_send"]
    ticket = await client.pd_expect(TOKENS, request_id="r")
    assert (ticket.hit_chunks, ticket.total_chunks, ticket.is_final) == (0, 3, True)


async def test_a_node_without_pushes_is_the_callers_to_configure(client, node) -> None:
    refusal = common_pb2.Error(code=common_pb2.ERROR_CODE_INVALID, message="give it `cluster.pd`")
    node.refusals["pd_send"] = node.refusals["pd_expect"] = refusal
    with pytest.raises(RequestRefused, match="cluster.pd"):
        await client.pd_send(TOKENS, **PUSH)
    with pytest.raises(RequestRefused, match="cluster.pd"):
        await client.pd_expect(TOKENS, request_id="r")


async def test_a_prompt_shorter_than_a_chunk_is_pushed_at_once(client, node) -> None:
    transfer = await client.pd_send(TOKENS[:3], **PUSH)
    assert (await transfer).state is SentState.COMMITTED
    assert node.count("pd_send") == 0


async def test_a_prompt_longer_than_a_push_is_cut(client, node, monkeypatch) -> None:
    monkeypatch.setattr(pushing_process, "CHUNKS_MAX", 2)
    await client.pd_send(TOKENS, **PUSH)
    ticket = await client.pd_expect(TOKENS, request_id="r1")
    assert len(node.last("pd_send").pd_send.prompt.keys) == 64
    assert ticket.total_chunks == 2


async def test_who_moves_no_bytes_pushes_none(node, config, spec) -> None:
    scheduler = replace(spec, own_shards=())
    async with node.serving(), Client.connect(config, scheduler) as client:
        with pytest.raises(MovesNoBytes, match="own_shards"):
            await client.pd_send(TOKENS, **PUSH)
        assert node.count("pd_send") == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"target": "B"}, "target"),
        ({"target": ""}, "target"),
        ({"target": 7}, "target"),
        ({"request_id": None}, "request_id"),
        ({"request_id": "r" * 257}, "request_id"),
        ({"priority": -1}, "priority"),
        ({"transfer_s": 0}, "transfer_s"),
        ({"transfer_s": float("inf")}, "transfer_s"),
        ({"transfer_s": "1"}, "transfer_s"),
    ],
)
async def test_a_bad_argument_is_named(client, node, arguments, field) -> None:
    """B2."""
    with pytest.raises(InvalidField) as refused:
        await client.pd_send(TOKENS, **{**PUSH, **arguments})
    assert refused.value.field == field
    assert node.count("pd_send") == 0


async def test_an_expected_prompt_is_loaded_while_it_comes(
    client, node, engine, other_engine
) -> None:
    """A ticket as of a lookup; its readers, its progress, its cancellation."""
    await client.store(TOKENS[:32], [engine.layout], [BLOCKS])
    ticket = await client.pd_expect(TOKENS, request_id="r1", readers=2, transfer_s=3)
    asked = node.last("pd_expect").pd_expect
    assert (asked.request_id, asked.readers, asked.within_ms) == ("r1", 2, 3000)
    assert (ticket.hit_chunks, ticket.promised_chunks, ticket.is_final) == (2, 3, False)
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    (name,) = node.tickets
    await progress(node, name, 3, final=True)
    assert await ticket.ready == 3
    loaded = await client.load(ticket, [other_engine.layout], [BLOCKS])
    assert loaded.tokens == 48
    assert (other_engine.of(BLOCKS) == engine.of(BLOCKS)).all()
    await ticket.cancel()
    await node.wait_for("cancel")
    assert not node.tickets


async def test_an_expected_prompt_that_nobody_refers_to_is_cancelled(client, node) -> None:
    ticket = await client.pd_expect(TOKENS, request_id="r1")
    assert node.tickets
    del ticket
    gc.collect()
    await node.wait_for("cancel")
    assert not node.tickets
