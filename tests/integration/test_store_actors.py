"""Store actors in a node: beside each other, in health and status, and when one of them hangs."""

from __future__ import annotations

import json

import anyio
import pytest
from support.nodes import local_node
from support.store_world import source, target

from penstock.actors.api import control
from penstock.actors.api import store as api
from penstock.actors.api.control import HealthState
from penstock.actors.api.store import LoadOutcome, SaveOutcome
from penstock.actors.cli.main import main as penstock
from penstock.actors.node import Node
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.runtime.errors import ConfigError

STORES = [
    {"name": "near", "type": "memory", "capacity": "8MiB"},
    {
        "name": "far",
        "type": "memory",
        "capacity": "8MiB",
        "save_within": "20ms",
        "attempts_max": 1,
        "faults": {"hang": 1.0},
    },
]


async def _health(node: Node) -> control.NodeHealth:
    return await node._refs.control.ask(control.GetHealth(), within=5)


def test_a_store_that_hangs_is_named_and_disturbs_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """B1: degraded, and which; the others and the node go on; and the node stops in order."""

    async def status(node: Node, *words: str) -> str:
        command = ["status", "--address", node.address, *words]
        await anyio.to_thread.run_sync(lambda: penstock(command))
        return capsys.readouterr().out

    async def run() -> None:
        async with local_node(stores=STORES) as node:
            assert (await _health(node)).state is HealthState.SERVING
            near, far = node._refs.stores["near"], node._refs.stores["far"]
            some = [await make_sample(n, 20_000) for n in range(5)]
            for one in some:
                saved = await far.ask(api.Save((source(one),)), within=5)
                assert saved[0].outcome is SaveOutcome.FAILED
            health = await _health(node)
            assert health.state is HealthState.DEGRADED
            parts = {part.name: part for part in health.parts}
            assert parts["store[far]"].state is HealthState.DEGRADED
            assert "writes fail: " in parts["store[far]"].detail
            assert parts["store[near]"].state is HealthState.SERVING
            saved = await near.ask(api.Save(tuple(map(source, some))), within=5)
            assert {one.outcome for one in saved} == {SaveOutcome.SAVED}
            into = tuple(target(one) for one in some)
            loaded = await near.ask(api.Load(into), within=5)
            assert {one.outcome for one in loaded} == {LoadOutcome.LOADED}
            assert bytes(into[3].payload) == bytes(some[3].payload)
            assert await near.ask(api.Locate(keys_of(some)), within=5) == b"\1" * 5
            said = await status(node)
            assert (
                "store     near                 open       5 objects, 122,880 bytes of 8MiB" in said
            )
            assert "store     far                  broken" in said
            stat = json.loads(await status(node, "--json"))["stat"]["stores"]
            assert [one["name"] for one in stat] == ["near", "far"]
            assert int(stat[0]["used_bytes"]) == 122_880

    anyio.run(run)


def test_two_stores_of_one_name_are_refused() -> None:
    async def run() -> None:
        async with local_node(stores=[STORES[0], STORES[0]]):
            pytest.fail("the node started")

    with pytest.raises(ConfigError, match=r"stores\.1\.name: two stores are called 'near'"):
        anyio.run(run)


def test_a_store_that_is_refused_keeps_the_node_from_starting() -> None:
    """What is configured wrongly is said at the start, by the name of the store."""
    wrong = {"name": "own", "type": "plugin", "plugin": "nowhere:Store"}

    async def run() -> None:
        async with local_node(stores=[wrong]):
            pytest.fail("the node started")

    with pytest.raises(ConfigError, match=r"stores\.own\.plugin: nowhere cannot be imported"):
        anyio.run(run)
