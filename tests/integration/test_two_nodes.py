"""Two and more nodes on loopback: what one has in L1 is served at the other, bit by bit the same, or not at all."""

from __future__ import annotations

import pytest
from support.cluster import cluster
from support.media import Prompt, find, put

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["tcp", "grpc"])
def channels(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"kinds": [request.param]}


async def test_what_one_node_has_is_served_at_another(channels: dict[str, object]) -> None:
    prompt = Prompt.made("a", 20)
    async with cluster("a", "b", cluster={"channels": channels}) as (one, other):
        await put(one.engine, prompt)
        await other.knows(prompt.keys, of="a")
        found = await find(other.engine, prompt)
        assert found.bodies == prompt.bodies
