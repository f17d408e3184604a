"""Prompts come back from a store that casts, compresses and encrypts, through the whole node and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.eventually import eventually
from support.nodes import local_node
from support.small_model import HEAD_SIZE, HEADS, LAYERS, spec
from support.transforms import KEYS_A, write_keys

from penstock.actors.api import eviction, store
from penstock.actors.engine.client import Client, EngineSpec
from penstock.actors.engine.layout import KvGeometry, paged_layout
from penstock.actors.node import Node
from penstock.runtime.errors import ConfigError

pytestmark = pytest.mark.anyio

BLOCK_TOKENS, BLOCKS = 16, 64
GEOMETRY = KvGeometry(block_tokens=BLOCK_TOKENS, kv_heads=HEADS, head_size=HEAD_SIZE)


def transformed_spec(transform: str) -> EngineSpec:
    return replace(spec(dtype="float16", block_tokens=BLOCK_TOKENS), transform=transform)


def cache(seed: int) -> list[np.ndarray]:
    shape = (2, BLOCKS, BLOCK_TOKENS, HEADS, HEAD_SIZE)
    draw = np.random.default_rng(seed)
    return [draw.normal(size=shape).astype(np.float16) for _ in range(LAYERS)]


@asynccontextmanager
async def node_with(directory: Path) -> AsyncIterator[Node]:
    keys = write_keys(directory / "keys", KEYS_A)
    stores = [
        {
            "name": "cast",
            "type": "file",
            "paths": str(directory / "kv"),
            "capacity": "8MiB",
            "transforms": [
                {"type": "fp8_e4m3"},
                {"type": "zstd"},
                {"type": "aes_256_gcm", "keys_file": str(keys)},
            ],
        }
    ]
    async with local_node(stores=stores, chunk_tokens=256) as node:
        yield node


async def usage_of(node: Node) -> store.StoreUsage:
    return await node._refs.stores["cast"].ask(store.Measure(), within=5)


async def put(
    client: Client, tensors: list[np.ndarray], chunks: int
) -> tuple[list[int], list[int]]:
    tokens = [*range(client.chunk_tokens * chunks)]
    ids = [*range(len(tokens) // BLOCK_TOKENS)]
    layout = paged_layout("NL_X_TWO_NB_BS_NH_HS", tensors, GEOMETRY)
    assert (await client.store(tokens, [layout], [ids])).chunks_written == chunks
    return tokens, ids


async def test_a_session_that_names_the_cast_gets_its_kv_back_within_its_precision(
    tmp_path: Path,
) -> None:
    """Half the bytes on the disk, counted as they are there; nothing is left in L1 when they are asked for."""
    async with node_with(tmp_path) as node, node.attach(transformed_spec("fp8_e4m3")) as client:
        tensors = cache(1)
        tokens, ids = await put(client, tensors, 3)

        async def is_saved() -> bool:
            return (await usage_of(node)).objects == 3 and (await node.usage()).leases == 0

        await eventually(is_saved, within=10, what="the prompt is saved")
        stored = (await usage_of(node)).used_bytes
        assert stored == sum(one.stat().st_size for one in (tmp_path / "kv").rglob("objects/*/*/*"))
        assert stored < 0.6 * sum(one[:, ids].nbytes for one in tensors)
        await node._refs.eviction.ask(eviction.Purge(), within=5)
        async with await client.lookup(tokens) as ticket:
            assert await ticket.ready == 3
            other = cache(2)
            layout = paged_layout("NL_X_TWO_NB_BS_NH_HS", other, GEOMETRY)
            assert (await client.load(ticket, [layout], [ids])).tokens == len(tokens)
        for before, after in zip(tensors, other, strict=True):
            wide, cast = before[:, ids].astype(np.float64), after[:, ids].astype(np.float64)
            assert (np.abs(wide - cast) <= np.maximum(np.abs(wide) / 16, 2.0**-14)).all()
            assert (wide != cast).any(), "it was not cast at all"


async def test_a_session_that_does_not_name_the_cast_is_not_kept_there(tmp_path: Path) -> None:
    """The lossy transform is a part of the namespace: who did not ask for it never meets it."""
    async with node_with(tmp_path) as node, node.attach(transformed_spec("")) as client:
        await put(client, cache(1), 2)

        async def is_settled() -> bool:
            failed = node.telemetry.value(
                "penstock_store_operations_total", store="cast", op="save", outcome="failed"
            )
            return (failed or 0) >= 2

        await eventually(is_settled, within=10, what="the saves are refused")
        assert (await usage_of(node)).objects == 0
        assert not [*(tmp_path / "kv").rglob("objects/*/*/*")]


async def test_a_node_whose_keys_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys", KEYS_A)
    keys.chmod(0o644)
    seal = {"type": "aes_256_gcm", "keys_file": str(keys)}
    stores = [{"name": "m", "type": "memory", "capacity": "1MiB", "transforms": [seal]}]
    with pytest.raises(ConfigError, match=r"stores.m.transforms.0.keys_file.*chmod 600"):
        async with local_node(stores=stores):
            pass
