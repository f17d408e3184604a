"""A node whose L1 has not even room for one chunk of an engine says so when that engine attaches."""

from __future__ import annotations

import logging

import pytest
from support.nodes import local_node
from support.small_model import spec

from penstock.actors.engine.client import Client, ClientConfig

pytestmark = pytest.mark.anyio
CHUNK_BYTES = 256 * 512  # 2 layers, keys and values, 2 heads of 16 floats


@pytest.mark.parametrize(
    ("l1_bytes", "is_told"), [(CHUNK_BYTES - 4096, True), (CHUNK_BYTES, False)]
)
async def test_an_l1_too_small_for_one_chunk_is_told_of_once(
    l1_bytes: int, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen to fail: all went as ever, and nothing was ever hit."""
    with caplog.at_level(logging.WARNING, logger="penstock.gateway"):
        async with local_node(l1__bytes=l1_bytes, chunk_tokens=256) as node:
            for _ in range(2):
                async with Client.connect(ClientConfig(address=node.address), spec()):
                    pass
    told = [one.getMessage() for one in caplog.records if "l1_too_small" in one.getMessage()]
    assert len(told) == is_told, told
    for line in told:
        assert f"chunk_bytes={CHUNK_BYTES} l1_bytes={l1_bytes}" in line
        assert "raise l1.bytes, or lower chunk_tokens" in line
