"""A put and a get over the wire, and what the numbers say of them."""

from __future__ import annotations

import pytest
from support.declarations import OBJECT_BYTES, hello, keys
from support.nodes import local_node
from support.raw_engine import attached, extents_of

from penstock._native import crc64

pytestmark = [pytest.mark.anyio, pytest.mark.with_stores_too]


async def test_what_was_put_is_found_and_read() -> None:
    async with local_node() as node, attached(node.address, hello()) as engine:
        await engine.put(keys(4), fill=9)
        found = (await engine.lookup(keys(6))).lookup
        assert (found.hit_chunks, found.total_chunks) == (4, 6)
        assert await engine.final_hit(keys(6)) == 4
        acquired = (await engine.acquire(found.ticket)).acquired
        extents = extents_of(acquired.extents)
        assert [extent.bytes for extent in extents] == [OBJECT_BYTES] * 4
        assert {extent.digest for extent in extents} == {crc64(bytes([9]) * OBJECT_BYTES)}
        assert engine.arena is not None
        for extent in extents:
            assert set(engine.arena.view(extent.offset, extent.bytes)) == {9}
        assert (await engine.release(acquired.lease)).released.ok
        stat = await engine.stat()
        assert stat.resident_bytes == 4 * OBJECT_BYTES
        assert stat.free_bytes == stat.arena_bytes - stat.resident_bytes
