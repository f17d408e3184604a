"""Lookups, tickets and their news, against a scripted node."""

from __future__ import annotations

import os

import anyio
import pytest

from penstock.actors.engine.client import Client
from penstock.actors.engine.errors import RequestRefused, RequestTooLarge, StaleGrant
from penstock.protos import common_pb2, engine_pb2
from penstock.runtime.errors import CallerError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.loop_step_ms(50),  # the scripted node and its arena live in the same loop
]

TOKENS = list(range(100, 100 + 50))  # three chunks of 16, and two tokens beyond
BLOCKS = list(range(12))


def promise(node, ticket: bytes, *, hit: int, promised: int):
    """A reply to Lookup that is not final."""

    async def answer(request: engine_pb2.SessionRequest, reply: engine_pb2.SessionReply) -> None:
        reply.lookup.ticket = ticket
        reply.lookup.total_chunks = len(request.lookup.prompt.keys) // 32
        reply.lookup.hit_chunks = hit
        reply.lookup.promised_chunks = promised
        reply.lookup.final = hit == promised

    return answer


async def tell_progress(node, ticket: bytes, *, hit: int, promised: int) -> None:
    progress = engine_pb2.Progress(
        ticket=ticket, hit_chunks=hit, promised_chunks=promised, final=hit == promised
    )
    await node.streams[0].send(engine_pb2.SessionReply(progress=progress))


async def test_a_prompt_nobody_stored_is_a_miss(node, client: Client) -> None:
    ticket = await client.lookup(TOKENS)
    assert (ticket.hit_chunks, ticket.total_chunks, ticket.is_final) == (0, 3, True)
    assert await ticket.ready == 0
    assert [mark async for mark in ticket.progress()] == [0]
    with pytest.raises(StaleGrant):
        await ticket.acquire()


async def test_a_ticket_waits_for_its_final_watermark(node, client: Client) -> None:
    name = os.urandom(16)
    node.overrides["lookup"] = promise(node, name, hit=1, promised=3)
    ticket = await client.lookup(TOKENS)
    assert (ticket.hit_chunks, ticket.promised_chunks, ticket.is_final) == (1, 3, False)
    seen: list[int] = []
    final: list[int] = []

    async def watch() -> None:
        async for mark in ticket.progress():
            seen.append(mark)

    async def wait() -> None:
        final.append(await ticket.ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        tasks.start_soon(wait)
        await tell_progress(node, name, hit=2, promised=3)
        await client.stat()  # answered after the news: they have been read
        assert seen[-1] == 2
        assert final == []
        await tell_progress(node, name, hit=3, promised=3)
    assert (seen[-1], final) == (3, [3])


async def test_news_that_follow_the_reply_at_once_are_not_lost(node, client: Client) -> None:
    name = os.urandom(16)
    node.overrides["lookup"] = promise(node, name, hit=1, promised=3)
    node.hold("lookup")
    tickets = []

    async def look() -> None:
        tickets.append(await client.lookup(TOKENS))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        await node.wait_for("lookup")
        await node.let_go("lookup")
        await tell_progress(node, name, hit=3, promised=3)
    assert await tickets[0].ready == 3


async def test_news_are_coalesced_for_a_slow_reader(node, client: Client) -> None:
    name = os.urandom(16)
    node.overrides["lookup"] = promise(node, name, hit=0, promised=3)
    ticket = await client.lookup(TOKENS)
    progress = ticket.progress()
    assert await anext(progress) == 0
    for hit in (1, 2, 3):
        await tell_progress(node, name, hit=hit, promised=3)
    await client.stat()
    assert [mark async for mark in progress] == [3]


async def test_a_watermark_never_goes_back(node, client: Client) -> None:
    name = os.urandom(16)
    node.overrides["lookup"] = promise(node, name, hit=2, promised=3)
    ticket = await client.lookup(TOKENS)
    await tell_progress(node, name, hit=1, promised=1)
    await client.stat()
    assert (ticket.hit_chunks, ticket.promised_chunks, ticket.is_final) == (2, 2, True)


async def test_ready_gives_up_waiting_after_its_limit(node, config, spec) -> None:
    """B11: a lost notification costs the deadline and not for ever."""
    config = type(config)(address=config.address, ready_within_s=0.05)
    node.overrides["lookup"] = promise(node, os.urandom(16), hit=1, promised=3)
    async with node.serving(), Client.connect(config, spec) as client:
        ticket = await client.lookup(TOKENS)
        assert await ticket.ready == 1
        assert not ticket.is_final


async def test_leaving_the_block_cancels_the_ticket(node, client, engine) -> None:
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    async with await client.lookup(TOKENS) as ticket:
        assert len(node.tickets) == 1
    await node.wait_for("cancel")
    assert node.tickets == {}
    assert ticket.is_over
    await ticket.cancel()
    await client.stat()
    assert node.count("cancel") == 1


async def test_a_ticket_nobody_refers_to_cancels_itself(node, client, engine) -> None:
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    await client.lookup(TOKENS)
    await node.wait_for("cancel")
    assert node.tickets == {}


async def test_the_same_request_gives_the_same_ticket(node, client: Client) -> None:
    """A5: while the tokens are the same."""
    node.overrides["lookup"] = promise(node, os.urandom(16), hit=2, promised=2)
    first = await client.lookup(TOKENS, request_id="r")
    node.overrides["lookup"] = promise(node, first.handle.ticket, hit=3, promised=3)
    again = await client.lookup(TOKENS, request_id="r")
    assert again is first
    assert first.hit_chunks == 3


async def test_a_prompt_that_grew_is_sent_as_a_delta(node, client: Client) -> None:
    await client.lookup(TOKENS, request_id="r")
    grown = TOKENS + list(range(1000, 1030))
    ticket = await client.lookup(grown, request_id="r")
    delta = node.last("lookup").lookup.prompt.delta
    assert (delta.base, delta.base_chunks, len(delta.keys)) == (1, 3, 2 * 32)
    assert ticket.total_chunks == 5
    keys = client._link.current().keyspace.prompt(grown).keys
    assert node.prompts[2] == keys  # the delta means the same as the whole prompt


async def test_the_same_request_id_with_other_tokens_is_another_prompt(node, client) -> None:
    """A5: keys come from tokens only. Seen to fail when the keys remembered for the id are taken unseen."""
    await client.lookup(TOKENS, request_id="r")
    other = [token + 1 for token in TOKENS]
    await client.lookup(other, request_id="r")
    prompt = node.last("lookup").lookup.prompt
    assert prompt.WhichOneof("form") == "keys"
    assert prompt.keys == client._link.current().keyspace.prompt(other).keys
    assert node.prompts[1] != node.prompts[2]


async def test_a_changed_tail_keeps_the_chunks_before_it(node, client: Client) -> None:
    await client.lookup(TOKENS, request_id="r")
    changed = [*TOKENS[:40], *range(7)]
    await client.lookup(changed, request_id="r")
    delta = node.last("lookup").lookup.prompt.delta
    assert (delta.base_chunks, len(delta.keys)) == (2, 0)


async def test_a_forgotten_base_is_sent_whole(node, client: Client) -> None:
    await client.lookup(TOKENS, request_id="r")
    lookup = type(node)._lookup

    async def forgetful(request, reply) -> None:
        if request.lookup.prompt.HasField("delta"):
            reply.error.code = common_pb2.ERROR_CODE_STALE
        else:
            lookup(node, request, reply)

    node.overrides["lookup"] = forgetful
    ticket = await client.lookup(TOKENS + TOKENS, request_id="r")
    assert ticket.total_chunks == 6
    assert node.last("lookup").lookup.prompt.WhichOneof("form") == "keys"


async def test_keys_may_be_given_instead_of_tokens(node, client, engine) -> None:
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    keys = node.last("reserve").reserve.prompt.keys
    ticket = await client.lookup(keys=keys)
    assert ticket.hit_chunks == 3
    parts = [keys[:32], keys[32:64]]
    assert (await client.lookup(keys=parts)).hit_chunks == 2


async def test_salt_and_adapter_make_other_keys(node, client, engine) -> None:
    """A13, A12: another tenant or another adapter never hits."""
    await client.store(TOKENS, [engine.layout], [BLOCKS], salt=b"a")
    assert (await client.lookup(TOKENS, salt=b"a")).hit_chunks == 3
    assert (await client.lookup(TOKENS, salt=b"b")).hit_chunks == 0
    assert (await client.lookup(TOKENS)).hit_chunks == 0
    assert (await client.lookup(TOKENS, salt=b"a", adapter=b"x" * 32)).hit_chunks == 0
    assert node.last("lookup").lookup.prompt.salt == b"a"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (common_pb2.ERROR_CODE_INVALID, RequestRefused),
        (common_pb2.ERROR_CODE_TOO_LARGE, RequestTooLarge),
    ],
)
async def test_the_callers_own_faults_are_errors(node, client, code, error) -> None:
    node.refusals["lookup"] = common_pb2.Error(code=code, message="no", field="lookup.readers")
    with pytest.raises(error, match=r"lookup\.readers: no"):
        await client.lookup(TOKENS, readers=129)


@pytest.mark.parametrize(
    "code",
    [
        common_pb2.ERROR_CODE_STALE,
        common_pb2.ERROR_CODE_EXHAUSTED,
        common_pb2.ERROR_CODE_DEADLINE,
        common_pb2.ERROR_CODE_UNAVAILABLE,
        common_pb2.ERROR_CODE_INTERNAL,
    ],
)
async def test_the_nodes_troubles_are_misses(node, client: Client, engine, code) -> None:
    """C1, B3."""
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    error = common_pb2.Error(code=code, message="not now")
    node.refusals = {"lookup": error, "reserve": error, "prefetch": error, "touch": error}
    ticket = await client.lookup(TOKENS)
    assert (ticket.hit_chunks, ticket.total_chunks) == (0, 3)
    assert (await client.store(TOKENS, [engine.layout], [BLOCKS])).chunks_written == 0
    assert (await client.prefetch(TOKENS)).hit_chunks == 0
    assert await client.touch(TOKENS) == 0
    assert sum(client.statistics().excused.values()) == 4


async def test_a_late_answer_is_a_miss_and_its_ticket_is_given_back(node, client, engine) -> None:
    """B8: a lookup has a deadline, it travels, and passing it leaks nothing."""
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    node.hold("lookup")
    ticket = await client.lookup(TOKENS, within=0.02)
    assert ticket.hit_chunks == 0
    assert node.last("lookup").deadline_ms == 20
    assert len(node.tickets) == 1
    await node.let_go("lookup")
    await node.wait_for("cancel")
    assert node.tickets == {}


async def test_a_prompt_beyond_the_nodes_bound_is_cut(node, client: Client) -> None:
    ticket = await client.lookup(list(range(16 * 70)))
    assert ticket.total_chunks == 64
    assert len(node.last("lookup").lookup.prompt.keys) == 64 * 32


async def test_tokens_and_keys_together_are_refused(client: Client) -> None:
    with pytest.raises(CallerError, match="tokens or by keys"):
        await client.lookup(TOKENS, keys=bytes(32))
    with pytest.raises(CallerError, match="tokens or by keys"):
        await client.lookup()


async def test_requests_beyond_the_nodes_bound_wait_their_turn(node, client: Client) -> None:
    node.hold("lookup")
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(client.lookup, TOKENS)
        await node.wait_for("lookup", node.limits.inflight_max)
        assert node.count("lookup") == node.limits.inflight_max
        await node.let_go("lookup")
    assert node.count("lookup") == 20


async def test_a_full_outgoing_queue_makes_callers_wait_under_their_deadline(node, config, spec):
    config = type(config)(address=config.address, outgoing_max=1)
    async with node.serving(), Client.connect(config, spec) as client:
        node.hold("lookup")
        async with anyio.create_task_group() as tasks:
            for _ in range(node.limits.inflight_max + 1):
                tasks.start_soon(client.lookup, TOKENS)
            await node.wait_for("lookup", node.limits.inflight_max)
            late = await client.lookup(TOKENS, within=0.02)
            assert late.hit_chunks == 0
            assert client.statistics().excused == {"lookup: DeadlineExceeded": 1}
            await node.let_go("lookup")


async def test_another_process_joins_a_ticket_and_reads_it(
    node, client, config, spec, engine, other_engine
) -> None:
    await client.store(TOKENS, [engine.layout], [BLOCKS])
    async with await client.lookup(TOKENS) as ticket, Client.connect(config, spec) as worker:
        joined = worker.join(ticket.handle)
        loaded = await worker.load(joined, [other_engine.layout], [BLOCKS])
        assert loaded.tokens == 48
        del joined
        await worker.stat()
        assert node.count("cancel") == 0  # it is not the worker's to cancel
        node.epoch = os.urandom(16)
    stale = ticket.handle.__class__(b"x" * 16, b"y" * 16, 3, 3)
    assert client.join(stale).hit_chunks == 0
