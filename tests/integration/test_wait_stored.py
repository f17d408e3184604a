"""What an engine is told of its saves below L1, by the client and its blocking twin."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support.declarations import CHUNK_TOKENS
from support.media import Files
from support.nodes import local_node, served_node
from support.small_model import GEOMETRY, spec

from penstock.actors.api.errors import InvalidField
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import (
    Client,
    ClientConfig,
    Saves,
)
from penstock.actors.engine.layout import paged_layout
from penstock.actors.stores.config import FaultsConfig
from penstock.actors.stores.faulty import FaultyStore

np = pytest.importorskip("numpy")

TOKENS = list(range(CHUNK_TOKENS * 4))
IDS = list(range(len(TOKENS) // 4))
SAVED, FAILED, PENDING, NOT_WANTED, UNKNOWN = "SAVED", "FAILED", "PENDING", "NOT_WANTED", "UNKNOWN"


def layout():  # type: ignore[no-untyped-def]
    tensors = [np.random.default_rng(n).random((2, 64, 4, 2, 16), dtype=np.float32) for n in (1, 2)]
    return paged_layout("NL_X_TWO_NB_BS_NH_HS", tensors, GEOMETRY)


def names(saves: Saves, store: str) -> list[str]:
    return [state.name for state in saves.at(store)]


@pytest.mark.anyio
async def test_a_client_hears_of_each_object_at_each_store(tmp_path: Path) -> None:
    good, bad, read = Files(tmp_path / "good"), Files(tmp_path / "bad"), Files(tmp_path / "read")
    good.name, bad.name, read.name = "good", "bad", "read"
    stores = [
        good.config(),
        bad.config(faults={"fault": 1.0}, attempts_max=1),
        read.config(write="none"),
    ]
    async with (
        local_node(stores=stores, writer__retry_within="300ms") as node,
        node.attach(spec()) as client,
    ):
        await client.store(TOKENS, [layout()], [IDS])
        longer = [*TOKENS, *range(CHUNK_TOKENS)]
        saves = await client.wait_stored(longer, within=5)
        assert saves.stores == ("good", "bad", "read")
        assert saves.slots == 1
        assert names(saves, "good") == [SAVED] * 4 + [UNKNOWN]
        assert names(saves, "bad") == [FAILED] * 4 + [UNKNOWN]
        assert names(saves, "read") == [NOT_WANTED] * 4 + [UNKNOWN]
        assert len(good.all()) == 4
        with pytest.raises(ValueError, match="nowhere"):
            saves.at("nowhere")


@pytest.mark.anyio
async def test_waiting_ends_in_time_and_says_what_is_pending(
    tmp_path: Path, faulty: list[FaultyStore]
) -> None:
    files = Files(tmp_path / "kv")
    async with (
        local_node(stores=[files.config(faults={})]) as node,
        node.attach(spec()) as client,
    ):
        faulty[0].faults = FaultsConfig(hang=1.0)
        await client.store(TOKENS, [layout()], [IDS])
        with anyio.fail_after(2):
            saves = await client.wait_stored(TOKENS, within=0.05)
        assert names(saves, "files") == [PENDING] * 4
        assert names(await client.wait_stored(TOKENS, within=0.0), "files") == [PENDING] * 4


@pytest.mark.anyio
async def test_without_a_node_nothing_is_known() -> None:
    async with local_node() as node:
        config = ClientConfig(address=node.address)
        async with Client.connect(config, spec()) as client:
            assert await client.wait_stored(TOKENS, within=1) == Saves()
            client._link.current()._stream._call.cancel()
            while client.is_attached:
                await anyio.lowlevel.checkpoint()
            assert await client.wait_stored(TOKENS, within=1) == Saves()


@pytest.mark.anyio
@pytest.mark.parametrize("within", [None, "1", float("inf"), float("nan")])
async def test_a_wait_that_cannot_be_is_refused(within: object) -> None:
    """Seen to fail: the end of all time raised OverflowError, and text TypeError."""
    async with local_node() as node, node.attach(spec()) as client:
        with pytest.raises(InvalidField, match="within"):
            await client.wait_stored(TOKENS, within=within)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_what_is_over_is_not_waited_for() -> None:
    """Seen to fail: a time that had passed raised ValueError."""
    async with local_node() as node, node.attach(spec()) as client:
        assert await client.wait_stored(TOKENS, within=-1.0) == Saves()


def test_the_blocking_client_waits_too(tmp_path: Path) -> None:
    files = Files(tmp_path / "kv")
    with served_node(tmp_path / "state", stores=[files.config()]) as node:
        with BlockingClient.connect(ClientConfig(address=node.address), spec()) as client:
            client.store(TOKENS, [layout()], [IDS]).result(5)
            saves = client.wait_stored(TOKENS, within=5).result(10)
            assert names(saves, "files") == [SAVED] * 4
            assert len(files.all()) == 4
