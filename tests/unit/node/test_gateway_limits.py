"""The bounds of one session, by what it declared."""

from __future__ import annotations

import pytest

from penstock.actors.config import GatewayConfig, NodeConfig
from penstock.actors.node_settings import gateway_limits


@pytest.mark.parametrize(("groups", "chunks"), [(1, 800), (2, 500), (3, 333), (64, 15), (2000, 1)])
def test_no_request_is_about_more_objects_than_one_step_of_the_loop_can_take(
    groups: int, chunks: int
) -> None:
    """B12: a session of 64 groups reserved 64 objects for each of 16,384 chunks and held the loop for 100 ms."""
    config = NodeConfig(gateway=GatewayConfig(chunks_max=800, objects_max=1000))
    limits = gateway_limits(config).for_groups(groups)
    assert limits.chunks_max == chunks
    assert limits.wire().chunks_max == chunks
