"""An engine that stores layer by layer, and has each layer pushed as soon as it is computed.

The same against real nodes is in tests/integration: pd_clients.
"""

from __future__ import annotations

import gc
from functools import partial

import pytest

from penstock.actors.api.errors import InvalidField
from penstock.actors.engine import pushes
from penstock.actors.engine.errors import EXCUSED, BadBlocks, StaleGrant
from penstock.protos import common_pb2, engine_pb2
from penstock.runtime.errors import CallerError

pytestmark = [pytest.mark.loop_step_ms(50)]

TOKENS = list(range(100, 100 + 50))  # three chunks and a rest
BLOCKS = list(range(12))
PUSH = {"target": "b", "request_id": "r1"}
LAYERS = 2


def told(node) -> list[engine_pb2.PdLayers]:
    return [one.pd_layers for kind, one in node.requests if kind == "pd_layers"]


@pytest.mark.anyio
async def test_each_layer_is_told_with_what_the_copy_has_digested(client, node, engine) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH)
    async with await client.reserve(TOKENS) as lease:
        for layer in range(LAYERS):
            await lease.copy_from([engine.layout], [BLOCKS], layers=range(layer, layer + 1))
            assert await transfer.layers(lease, layer) == 3 * 2
        await lease.commit()
        assert lease.outcome().chunks_written == 3
    assert [(list(one.indices), one.first_run) for one in told(node)] == [
        ([0, 1, 2], 0),
        ([0, 1, 2], 2),
    ]
    assert lease.is_over
    assert await transfer.layers(lease, 0) == 0


@pytest.mark.anyio
async def test_only_what_was_copied_and_is_not_committed_is_told(client, node, engine) -> None:
    transfer = await client.pd_send(TOKENS, **PUSH)
    await client.store(TOKENS[:16], [engine.layout], [BLOCKS[:4]])
    gap = [*BLOCKS[:8], -1, -1, -1, -1]
    async with await client.reserve(TOKENS, first_chunk=1) as lease:
        copy = partial(lease.copy_from, [engine.layout], first_chunk=1)
        assert await transfer.layers(lease, 0) == 0, "nothing was copied"
        await copy([gap], layers=range(1))
        assert await transfer.layers(lease, 0, 2) == 0, "not all of these layers"
        assert await transfer.layers(lease, 0) == 2
        await copy([gap], layers=range(1, 2))
        await lease.commit()
        assert await transfer.layers(lease, 0, 2) == 0, "it is committed"
        assert lease.outcome().chunks_written == 1
    assert node.last("pd_layers").pd_layers.indices == [0]


@pytest.mark.anyio
async def test_many_runs_are_told_in_parts(client, node, engine, monkeypatch) -> None:
    monkeypatch.setattr(pushes, "LAYER_RUNS_MAX", 5)
    transfer = await client.pd_send(TOKENS, **PUSH)
    async with await client.reserve(TOKENS) as lease:
        await lease.copy_from([engine.layout], [BLOCKS])
        assert await transfer.layers(lease, 0, LAYERS) == 12
    assert [list(one.indices) for one in told(node)] == [[0], [1], [2]]


@pytest.mark.anyio
async def test_a_node_that_does_not_take_layers_costs_nothing(client, node, engine) -> None:
    """They are pushed with the commit."""
    transfer = await client.pd_send(TOKENS, **PUSH)
    node.refusals["pd_layers"] = common_pb2.Error(
        code=common_pb2.ERROR_CODE_STALE, message="the reservation has ended"
    )
    async with await client.reserve(TOKENS) as lease:
        await lease.copy_from([engine.layout], [BLOCKS])
        assert await transfer.layers(lease, 0) == 0
        await transfer.cancel()
        assert await transfer.layers(lease, 0) == 0
        await lease.commit()
    assert node.count("pd_layers") == 1


@pytest.mark.anyio
async def test_a_reservation_that_is_given_up_is_aborted(client, node, engine) -> None:
    lease = await client.reserve(TOKENS)
    del lease
    gc.collect()
    await node.wait_for("abort")
    async with await client.reserve(TOKENS) as lease:
        with pytest.raises(BadBlocks):
            await lease.copy_from([engine.layout], [BLOCKS], layers=range(2, 3))
    await node.wait_for("abort", 2)
    with pytest.raises(StaleGrant):
        await lease.commit()
    nothing = await client.reserve(TOKENS[:3])
    assert (nothing.is_over, nothing.chunks) == (True, 0)
    await node.drop_streams()
    with pytest.raises(EXCUSED):
        await client.reserve(TOKENS)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("arguments", "field"),
    [((None, 0), "lease"), ((..., -1), "first_layer"), ((..., 0, 0.5), "count")],
)
async def test_a_bad_argument_is_named(client, arguments, field) -> None:
    """B2."""
    transfer = await client.pd_send(TOKENS, **PUSH)
    async with await client.reserve(TOKENS) as lease:
        given = [lease if one is ... else one for one in arguments]
        with pytest.raises(InvalidField) as refused:
            await transfer.layers(*given)
    assert refused.value.field == field


def test_threads_have_the_same(nodes, blocking, engine, other_engine) -> None:
    transfer = blocking.pd_send(TOKENS, **PUSH).result(5)
    with blocking.reserve(TOKENS).result(5) as lease:
        assert (lease.chunks, lease.is_over) == (3, False)
        for layer in range(LAYERS):
            layers = range(layer, layer + 1)
            lease.copy_from([engine.layout], [BLOCKS], layers=layers).result(5)
            assert transfer.layers(lease, layer).result(5) == 6
        assert lease.commit().result(5).chunks_written == 3
    with blocking.lookup(TOKENS).result(5) as ticket:
        blocking.load(ticket, [other_engine.layout], [BLOCKS]).result(5)
    assert (other_engine.of(BLOCKS) == engine.of(BLOCKS)).all()
    with pytest.raises(CallerError):
        transfer.layers(ticket, 0).result(5)
