"""B2: what an engine may give by mistake is refused by the name of the argument, and nothing else suffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.types import EXTRA_BYTES_MAX
from penstock.actors.core.namespace import RootDigests
from penstock.actors.engine.arguments import read_count, read_within
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import Client, ClientConfig
from penstock.actors.engine.errors import BadBlocks
from penstock.actors.prompts import Prompts
from penstock.protos import engine_pb2
from penstock.runtime.errors import CallerError

pytestmark = [pytest.mark.anyio, pytest.mark.loop_step_ms(50)]

TOKENS = list(range(100, 100 + 50))
BAD_LOOKUPS: list[tuple[str, dict[str, Any]]] = [
    ("readers", {"readers": -1}),
    ("readers", {"readers": 2**40}),
    ("readers", {"readers": 1.5}),
    ("salt", {"salt": "tenant"}),
    ("salt", {"salt": 7}),
    ("adapter", {"adapter": None}),
    ("request_id", {"request_id": 7}),
    ("request_id", {"request_id": "\ud800"}),
    ("within", {"within": math.inf}),
    ("within", {"within": math.nan}),
    ("within", {"within": 10**400}),
    ("within", {"within": "1"}),
    ("extras", {"extras": {0: "x"}}),
    ("extras", {"extras": {"0": b"x"}}),
    ("extras", {"extras": [b"x"]}),
    ("extras", {"extras": {3 * 10**9: b"x"}}),
    ("extras", {"extras": {1: b"x" * 1025}}),
    ("request_id", {"request_id": "r" * 257}),
    ("salt", {"salt": b"s" * 257}),
    ("adapter", {"adapter": b"a" * 65}),
]
BAD_KEYS = [[1, 2], [b"short"], "0" * 32, 7, bytes(31), [bytes(16), bytes(16)]]


class Unforeseen(Sequence[int]):
    """Tokens that fail in a way of their own."""

    def __len__(self) -> int:
        raise ZeroDivisionError

    def __getitem__(self, _: Any) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize(("name", "given"), BAD_LOOKUPS)
async def test_a_bad_argument_is_refused_by_its_name(client: Client, name: str, given: Any) -> None:
    """Seen to fail: ValueError, TypeError or OverflowError of protobuf, hashlib or math."""
    with pytest.raises(CallerError, match=name):
        await client.lookup(TOKENS, **given)
    assert (await client.lookup(TOKENS)).total_chunks == 3
    assert client.statistics().excused == {}


@pytest.mark.parametrize("keys", BAD_KEYS)
async def test_what_are_no_keys_is_refused(client: Client, keys: Any) -> None:
    for request in (client.lookup, client.touch, client.prefetch):
        with pytest.raises(CallerError, match="keys"):
            await request(keys=keys)


async def test_extras_of_ready_keys_are_refused_and_not_dropped(
    client: Client, engine: Any
) -> None:
    """A13's sibling: an image's hash that enters no key would serve another image's KV.

    Seen to fail: lookups took them and did nothing with them, as did stores and records.
    """
    keys, extras = bytes(32), {0: b"image"}
    requests: list[Callable[[], Any]] = [
        lambda: client.lookup(keys=keys, extras=extras),
        lambda: client.prefetch(keys=keys, extras=extras),
        lambda: client.touch(keys=keys, extras=extras),
        lambda: client.wait_stored(keys=keys, extras=extras, within=1),
        lambda: client.store(None, [engine.layout], [range(12)], keys=keys, extras=extras),
    ]
    for request in requests:
        with pytest.raises(InvalidField, match="extras"):
            await request()
    with pytest.raises(InvalidField, match="extras"):
        client.record(keys=keys, extras=extras)
    assert (await client.lookup(keys=keys, extras={})).total_chunks == 1


async def test_every_request_names_a_prompt_with_its_extras(node: Any, client: Client) -> None:
    """Seen to fail: hints could not say them, and so told the node of another prompt."""
    extras = {0: b"image"}
    expected = client._link.current().keyspace.prompt(TOKENS, extras=extras).keys
    await client.prefetch(TOKENS, extras=extras)
    assert node.last("prefetch").prefetch.prompt.keys == expected
    await client.touch(TOKENS, extras=extras)
    assert node.last("touch").touch.prompt.keys == expected
    await client.wait_stored(TOKENS, extras=extras, within=0)
    assert node.last("wait_stored").wait_stored.prompt.keys == expected


@pytest.mark.parametrize("bytes_", [EXTRA_BYTES_MAX, EXTRA_BYTES_MAX + 1])
async def test_client_and_node_have_one_bound_of_an_extra(client: Client, bytes_: int) -> None:
    """Seen to fail: the client made keys of an extra that the node refuses to hash."""
    extra = b"x" * bytes_
    tokens = np.arange(16, dtype=np.uint32).tobytes()
    namespace = client._link.current().keyspace.namespace(b"", b"")
    prompts = Prompts(RootDigests(namespace), chunk_tokens=16, chunks_max=4, kept_bytes_max=1 << 20)
    asked = engine_pb2.Prompt(tokens=tokens, extras=[engine_pb2.ChunkExtra(chunk=0, extra=extra)])
    if bytes_ <= EXTRA_BYTES_MAX:
        here = client.record(tokens, extras={0: extra})
        assert here["keys"] == [(await prompts.resolve(asked)).keys.hex()]
        return
    with pytest.raises(InvalidField, match=f"extras.*{EXTRA_BYTES_MAX}"):
        client.record(tokens, extras={0: extra})
    with pytest.raises(InvalidField, match=f"extras.*{EXTRA_BYTES_MAX}"):
        await prompts.resolve(asked)


async def test_waits_of_hints_and_tools_are_read_too(node: Any, client: Client) -> None:
    """Seen to fail: OverflowError, TypeError, and a wait without an end; of a wait longer than the node allows any
    request, nothing was told at all."""
    for within in (math.inf, math.nan, None, "1"):
        with pytest.raises(InvalidField, match="within"):
            await client.wait_attached(within=within)  # type: ignore[arg-type]
    for pin_s in (10**400, math.nan, -1):
        with pytest.raises(InvalidField, match="pin_s"):
            await client.prefetch(TOKENS, pin_s=pin_s)
    await client.wait_stored(TOKENS, within=3600)
    asked = node.last("wait_stored")
    assert asked.wait_stored.within_ms < asked.deadline_ms == node.limits.deadline_ms_max


async def test_bad_arguments_of_the_other_requests(client: Client, engine: Any) -> None:
    await client.store(TOKENS, [engine.layout], [range(12)])
    ticket = await client.lookup(TOKENS)
    bad_loads: list[dict[str, Any]] = [{"rank": -1}, {"rank": 2**32}, {"rank": "0"}]
    bad_loads += [{"skip_tokens": -4}, {"skip_tokens": 0.5}, {"within": math.inf}]
    for given in bad_loads:
        with pytest.raises(CallerError, match=next(iter(given))):
            await client.load(ticket, [engine.layout], [range(12)], **given)
    bad_stores: list[dict[str, Any]] = [{"first_chunk": -1}, {"first_chunk": 1.0}, {"salt": "s"}]
    for given in [*bad_stores, {"within": math.nan}]:
        with pytest.raises(CallerError, match=next(iter(given))):
            await client.store(TOKENS, [engine.layout], [range(12)], **given)
    for request in (client.stat, client.health):
        with pytest.raises(CallerError, match="within"):
            await request(within=math.inf)
    with pytest.raises(CallerError, match="rank"):
        await ticket.acquire(-1)
    with pytest.raises(CallerError, match="first_chunk"):
        await ticket.acquire(0, 2**40)
    assert (await client.load(ticket, [engine.layout], [range(12)])).tokens == 48


async def test_what_stands_where_something_else_belongs_is_named(
    client: Client, engine: Any
) -> None:
    """B2: a list forgotten, or an `await`. Seen to fail: TypeError and AttributeError of what came to it first."""
    await client.store(TOKENS, [engine.layout], [range(12)])
    ticket = await client.lookup(TOKENS)
    for layouts, ids, named in (
        (engine.layout, [range(12)], "layouts.*PagedLayout alone"),
        ([engine.layout], 7, "block_ids.*int alone"),
        ([engine.layout], None, "block_ids"),
        ([engine.kv], [range(12)], "PagedLayout, not ndarray"),
    ):
        with pytest.raises(BadBlocks, match=named):
            await client.store(TOKENS, layouts, ids)
        with pytest.raises(BadBlocks, match=named):
            await client.load(ticket, layouts, ids)
    forgotten = client.lookup(TOKENS)
    with pytest.raises(InvalidField, match="ticket.*coroutine"):
        await client.load(forgotten, [engine.layout], [range(12)])  # type: ignore[arg-type]
    await forgotten
    with pytest.raises(InvalidField, match="handle"):
        client.join(ticket)  # type: ignore[arg-type]


async def test_what_means_the_same_is_taken(node: Any, client: Client) -> None:
    """Buffers for bytes, NumPy's numbers for Python's; a time that has passed is a miss."""
    given = {"salt": bytearray(b"s"), "adapter": memoryview(b"a"), "extras": {np.int64(0): b"x"}}
    ticket = await client.lookup(TOKENS, readers=np.int64(2), within=np.float32(1), **given)
    assert ticket.total_chunks == 3
    sent = node.last("lookup").lookup
    assert (sent.readers, sent.prompt.salt, sent.prompt.adapter) == (2, b"s", b"a")
    for passed in (0, -1.0):
        assert (await client.lookup(TOKENS, within=passed)).hit_chunks == 0
    assert client.statistics().excused == {"lookup: DeadlineExceeded": 2}


def test_numbers_are_read_as_they_are() -> None:
    assert (read_count("n", True), read_count("n", np.uint32(7))) == (1, 7)
    assert (read_within(None), read_within(2), read_within(-0.5)) == (None, 2.0, 0.0)
    with pytest.raises(CallerError, match="within"):
        read_within(Decimal(1))


@pytest.mark.parametrize("within", [math.inf, math.nan])
async def test_a_request_that_fails_before_it_is_queued_takes_no_room(
    node: Any, within: float
) -> None:
    """B10: seen to fail: after outgoing_max such requests, none was sent any more."""
    config = ClientConfig(address=node.address, outgoing_max=2, attach_within_s=5.0)
    async with node.serving(), Client.connect(config, node.spec) as client:
        for _ in range(3):
            with pytest.raises(CallerError):
                await client.lookup(TOKENS, within=within)
        stream = client._link.current()._stream
        for _ in range(3):  # below the client's own checks
            with pytest.raises(AttributeError):
                await stream.ask(object(), within=1.0, accept=lambda reply: reply)  # type: ignore[arg-type]
        assert (await client.lookup(TOKENS, within=1.0)).total_chunks == 3
        assert client.statistics().excused == {}


async def test_a_deadline_that_has_passed_travels_as_one_that_has(
    node: Any, client: Client
) -> None:
    """On the wire 0 is the node's default, which would be seconds. Seen to fail with 0 sent."""
    stream = client._link.current()._stream
    for within, sent_ms in ((0.0, 1), (-3.0, 1), (1e-9, 1), (0.5, 500), (1e300, 10_000)):
        assert stream._deadline_ms(within) == sent_ms
    await client.touch(TOKENS, within=1e300)
    assert node.last("touch").deadline_ms == node.limits.deadline_ms_max


def test_a_mistake_settles_its_own_future_and_the_client_lives(node: Any, spec: Any) -> None:
    """Seen to fail: the client's thread died, and with it every other request of the engine."""
    config = ClientConfig(address=node.address, attach_within_s=5.0)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(node.serving()),
        BlockingClient.connect(config, spec) as client,
    ):
        for name, given in BAD_LOOKUPS:
            with pytest.raises(CallerError, match=name):
                client.lookup(TOKENS, **given).result(5)
        for keys in BAD_KEYS:
            with pytest.raises(CallerError, match="keys"):
                client.lookup(keys=keys).result(5)  # type: ignore[arg-type]
        with pytest.raises(CallerError, match="ticket.*Future"):
            client.load(client.lookup(TOKENS), [], []).result(5)  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):  # not foreseen: told to the call that it happens in
            client.lookup(Unforeseen()).result(5)
        assert client.lookup(TOKENS).result(5).total_chunks == 3
        assert client._thread.is_alive
