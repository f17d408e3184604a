"""Scenarios D5, D6, E2, E3 with stores: who may keep how much, under which names, and what the node says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.declarations import OBJECT_BYTES
from support.eventually import eventually
from support.media import HEADER_BYTES, Files, Prompt, find, put, put_and_save, states_of
from support.raw_engine import RawEngine
from support.samples import sample
from support.stored_node import one_engine, purge

from penstock.actors.node import Node
from penstock.actors.stores.config import FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.protos import engine_pb2 as pb

pytestmark = pytest.mark.anyio

SAVED, FAILED = pb.SAVE_STATE_SAVED, pb.SAVE_STATE_FAILED
COST = HEADER_BYTES + OBJECT_BYTES  # of one object in a file store


async def test_names_from_outside_are_never_part_of_a_path(tmp_path: Path) -> None:
    """D5: tenants, adapters, request ids and client names made of dots and slashes. Nothing appears outside the store's
    folder, and every name in it is digits of a digest, or the store's own.
    """
    files = Files(tmp_path / "kv")
    evil = b"../../../escaped/\x00/etc/passwd"
    prompt = Prompt.made("a", 2, salt=evil)
    async with one_engine(files.config()) as (_, engine):
        await put_and_save(engine, prompt)
        tokens = b"".join(n.to_bytes(4, "little") for n in range(32))
        await engine.put_prompt(pb.Prompt(tokens=tokens, salt=evil, adapter=b"../" * 20))
        lookup = pb.Lookup(prompt=prompt.wire(), readers=1, request_id="../../escaped")
        assert (await engine.ask(lookup=lookup)).lookup.hit_chunks == 2
        assert SAVED in await states_of(engine, prompt)

        async def is_there() -> bool:
            return len(files.all()) == 4

        await eventually(is_there, within=5, what="four objects are on the disk")
        ours = r"penstock\.json|lock|objects|aside|[0-9a-f]|[0-9a-f]{64}|[0-9a-f]+-\d+-[0-9a-f]{8}|owner"
        for path in files.root.rglob("*"):
            assert re.fullmatch(ours, path.name), path
    beside = [path for path in everything_below(tmp_path) if not path.is_relative_to(files.root)]
    assert not beside


def everything_below(folder: Path) -> list[Path]:
    return [*folder.rglob("*")]


async def test_a_tenant_fills_its_part_of_a_store_and_no_more(tmp_path: Path) -> None:
    """D6: quotas of each store, in its own bytes, before anything is written; what is refused stays a hit in L1, others
    are saved, and another store has its own quota.

    Seen to fail with the ledger's refusal not heard.
    """
    near, far = Files(tmp_path / "near"), Files(tmp_path / "far")
    near.name, far.name = "near", "far"
    stores = [
        near.config(quotas=[{"salt": "small", "bytes": 3 * COST}]),
        far.config(tenant_bytes_max=5 * COST, quotas=[{"salt": "large", "bytes": 100 * COST}]),
    ]
    small, large = Prompt.made("s", 8, salt=b"small"), Prompt.made("l", 20, salt=b"large")
    async with one_engine(*stores) as (node, engine):
        await put_and_save(engine, small, large)
        states = await states_of(engine, small)
        assert (states[::2].count(SAVED), states[::2].count(FAILED)) == (3, 5)
        assert (states[1::2].count(SAVED), states[1::2].count(FAILED)) == (5, 3)
        assert set(await states_of(engine, large)) == {SAVED}
        assert (near.used_bytes(), far.used_bytes()) == (23 * COST, 25 * COST)
        assert (await find(engine, small)).bodies == small.bodies
        text = node.telemetry.exposition().decode()
        name = "penstock_store_operations_total"
        assert sample(text, name, store="near", op="save", outcome="no_room") == 5
        assert sample(text, name, store="far", op="save", outcome="no_room") == 3
        await purge(node)
        assert (await find(engine, large)).bodies == large.bodies


async def test_a_load_that_loses_to_computing_is_skipped_counted_and_explained(
    tmp_path: Path, faulty: list[FaultyStore]
) -> None:
    """E2 (dynamo#6101, LMCache#1061): a store has become slow, the engine computes fast. Its prompts are final at once
    at what L1 has, and the reply says why; an engine that computes slowly still loads.

    Seen to fail with `worth_loading` giving the whole plan: the engine waited for the store.
    """
    files = Files(tmp_path / "kv")
    prompts = [Prompt.made(f"p{number}", 8) for number in range(6)]
    async with one_engine(files.config(faults={})) as (node, engine):
        await put_and_save(engine, *prompts)
        await purge(node)
        faulty[0].faults = FaultsConfig(slow=1.0, slow_for=0.3)  # type: ignore[arg-type]
        assert (await find(engine, prompts[0])).bodies == prompts[0].bodies  # it is measured now
        skipped = await look(engine, prompts[1], prefill_tokens_per_s=1_000_000)
        assert (skipped.hit_chunks, skipped.shortfall) == (0, pb.SHORTFALL_SLOWER_THAN_PREFILL)
        loaded = await look(engine, prompts[1], prefill_tokens_per_s=10)
        assert (loaded.hit_chunks, loaded.shortfall) == (8, pb.SHORTFALL_NONE)
        text = node.telemetry.exposition().decode()
        why = "slower_than_prefill"
        assert sample(text, "penstock_prefetch_skipped_chunks_total", shortfall=why) == 8
        assert sample(text, "penstock_prefetch_tickets_total", shortfall=why) == 1


async def look(engine: RawEngine, prompt: Prompt, *, prefill_tokens_per_s: int) -> pb.Progress:
    lookup = pb.Lookup(prompt=prompt.wire(), readers=1, prefill_tokens_per_s=prefill_tokens_per_s)
    found = (await engine.ask(lookup=lookup)).lookup
    last = await engine.last_progress(found.ticket)
    await engine.ask(cancel=pb.Cancel(ticket=found.ticket))
    return last


class Tally:
    """What the test knows of one store, from what it was answered and from what lies on the disk."""

    def __init__(self, node: Node, files: Files) -> None:
        self._node = node
        self._files = files
        self._text = ""

    def read(self) -> None:
        self._text = self._node.telemetry.exposition().decode()

    def of(self, name: str, **labels: str) -> float:
        return sample(self._text, f"penstock_store_{name}", store=self._files.name, **labels)

    def operations(self, op: str) -> dict[str, float]:
        outcomes = (
            "found",
            "missing",
            "failed",
            "loaded",
            "damaged",
            "saved",
            "no_room",
            "deleted",
        )
        told = {
            outcome: self.of("operations_total", op=op, outcome=outcome) for outcome in outcomes
        }
        return {outcome: count for outcome, count in told.items() if count}


async def test_every_number_of_a_store_is_the_truth(tmp_path: Path) -> None:
    """E3 (LMCache#1260, #1755): objects, bytes, room, evictions and damage of one store, each against
    what the client was told and what lies on the disk, with labels, step by step.

    Seen to fail with the bytes of loads counted with their headers, while what is not at hand was located twice, and
    while what was saved was counted as missing before.
    """
    files = Files(tmp_path / "kv")
    capacity = 30 * COST
    config = files.config(capacity=capacity)
    first, second, third = (Prompt.made(f"p{n}", 10) for n in range(3))
    async with one_engine(config, prefetch__slice_chunks=64) as (node, engine):
        tally = Tally(node, files)
        await put_and_save(engine, first, second)
        tally.read()
        assert tally.operations("save") == {"saved": 20}
        assert tally.of("bytes_total", op="save") == 20 * OBJECT_BYTES
        assert tally.of("objects") == len(files.all()) == 20
        assert tally.of("used_bytes") == files.used_bytes() == 20 * COST
        assert tally.of("capacity_bytes") == capacity
        assert tally.of("seconds_count", op="save") > 0
        assert 0 < tally.of("seconds_sum", op="save") < 5
        assert tally.of("breaker", side="reads", state="closed") == 1
        assert tally.of("breaker", side="writes", state="closed") == 1

        assert tally.operations("locate") == {}, "nobody has looked anything up"

        await purge(node)
        hit = len((await find(engine, first)).bodies)
        missed = Prompt.made("nobody's", 5)
        assert (await find(engine, missed)).hit_chunks == 0
        tally.read()
        assert hit == 10
        assert tally.operations("locate") == {"found": 10, "missing": 5}
        assert tally.operations("load") == {"loaded": 10}
        assert tally.of("bytes_total", op="load") == 10 * OBJECT_BYTES

        await put_and_save(engine, third, Prompt.made("p3", 5))  # five too many for its capacity
        tally.read()
        assert tally.operations("save") == {"saved": 35}
        evicted = tally.of("evicted_total")
        assert evicted == 35 - len(files.all()) >= 5
        assert tally.operations("delete") == {"deleted": evicted}
        assert tally.of("used_bytes") == files.used_bytes() <= capacity
        assert tally.of("objects") == len(files.all())

        await purge(node)
        for chunk in (1, 2):
            files.flip(third, chunk)
        assert (await find(engine, third)).hit_chunks == 1
        tally.read()
        assert tally.of("damaged_total") == 2
        assert tally.operations("load") == {"loaded": 18, "damaged": 2}
        assert tally.of("objects") == len(files.all())


async def test_what_fails_is_counted_and_seen_in_the_breaker(
    tmp_path: Path, faulty: list[FaultyStore]
) -> None:
    """E3: objects that could not be loaded, batches tried again, and the state of each breaker."""
    files, prompt = Files(tmp_path / "kv"), Prompt.made("a", 10)
    breaker = {"failures": 3, "window": "10s", "open_for": "100s", "open_for_max": "100s"}
    store = files.config(faults={}, breaker=breaker, attempts_max=2)
    async with one_engine(store, prefetch__head_start="10s") as (node, engine):
        tally = Tally(node, files)
        await put_and_save(engine, prompt)
        await purge(node)
        tally.read()
        assert tally.of("retries_total", op="load") == 0
        faulty[0].faults = FaultsConfig(fault=1.0)
        assert (await find(engine, prompt)).hit_chunks == 0
        tally.read()
        # It is loaded ahead of the others, and nothing beyond a hole is asked for.
        assert tally.operations("load") == {"failed": 1}
        assert tally.of("retries_total", op="load") > 0
        for _ in range(4):
            await find(engine, prompt)
        tally.read()
        assert tally.of("breaker", side="reads", state="open") == 1
        assert tally.of("breaker", side="reads", state="closed") == 0
        assert tally.of("breaker", side="writes", state="closed") == 1
        assert tally.of("bytes_total", op="load") == 0
        assert tally.of("waiting", op="load") == tally.of("waiting", op="save") == 0


async def test_batches_that_wait_are_counted_while_they_do(
    tmp_path: Path, faulty: list[FaultyStore]
) -> None:
    """E3: `waiting` goes up with what waits for its turn, and down again."""
    files = Files(tmp_path / "kv")
    config = files.config(faults={}, saves_max=1, save_within="60s")
    async with one_engine(config) as (node, engine):
        tally = Tally(node, files)
        faulty[0].faults = FaultsConfig(slow=1.0, slow_for=0.1)  # type: ignore[arg-type]
        prompts = [Prompt.made(f"p{number}", 2) for number in range(8)]
        for prompt in prompts:
            await put(engine, prompt)
        peak = 0.0

        async def is_saved() -> bool:
            nonlocal peak
            tally.read()
            peak = max(peak, tally.of("waiting", op="save"))
            return tally.operations("save") == {"saved": 16}

        await eventually(is_saved, within=10, what="everything is saved")
        assert 1 <= peak <= 7
        tally.read()
        assert tally.of("waiting", op="save") == 0
