"""Scenarios B with stores: a store that hangs, fails, is slow or full costs its own answers, and ends some day."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.declarations import OBJECT_BYTES
from support.eventually import eventually
from support.media import Files, Prompt, find, put, put_and_save, states_of
from support.nodes import nobody_reads
from support.raw_engine import RawEngine
from support.samples import sample
from support.stored_node import one_engine, purge

from penstock.actors.api import control, eviction
from penstock.actors.api.control import HealthState
from penstock.actors.node import Node
from penstock.actors.stores.config import FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.protos import engine_pb2 as pb

pytestmark = pytest.mark.anyio

SAVED, PENDING = pb.SAVE_STATE_SAVED, pb.SAVE_STATE_PENDING
BREAKER = {"failures": 2, "window": "10s", "open_for": "100ms"}
NO_FAULTS = FaultsConfig()


async def part(node: Node, name: str) -> control.PartHealth:
    health = await node._refs.control.ask(control.GetHealth(), within=5)
    return next(one for one in health.parts if one.name == name)


def counted(node: Node, name: str, **labels: str) -> float:
    return node.telemetry.value(f"penstock_{name}", **labels) or 0.0


async def test_a_store_that_never_answers_holds_up_nothing(
    tmp_path: Path, faulty: list[FaultyStore]
) -> None:
    """B1: one of two stores hangs in whatever it is asked. What is in L1 is answered at once, what the good store has
    comes, new prompts are saved there; health says degraded, and which. When the fault ends the breaker closes (B14).

    Seen to fail with a breaker that never opens.
    """
    hung, good = Files(tmp_path / "hung"), Files(tmp_path / "good")
    hung.name, good.name = "hung", "good"
    within = {"locate_within": "50ms", "load_within": "100ms", "save_within": "100ms"}
    hangs = hung.config(
        breaker=BREAKER, faults={"hang": 1.0}, ownership="shared", capacity=0, **within
    )
    resident, below = Prompt.made("resident", 20), Prompt.made("below", 20)
    soon_over = {"writer__retry_within": "100ms"}  # what is pending still is not waited for
    async with one_engine(hangs, good.config(), **soon_over) as (node, engine):
        await put_and_save(engine, below)
        await purge(node)
        await put(engine, resident)
        took = []
        for _ in range(50):
            begin = time.monotonic()
            found = (await engine.lookup(resident.keys)).lookup
            took.append(time.monotonic() - begin)
            assert (found.final, found.hit_chunks) == (True, 20)
            await engine.ask(cancel=pb.Cancel(ticket=found.ticket))
        assert statistics.median(took) < 0.02
        assert (await find(engine, below)).bodies == below.bodies
        states = await states_of(engine, resident)
        assert set(states[1::2]) == {SAVED}
        assert SAVED not in states[::2]
        await find(engine, Prompt.made("unknown", 3))
        await eventually(is_in(node, "hung", HealthState.DEGRADED), within=5, what="degraded")
        assert (await part(node, "store[good]")).state is HealthState.SERVING
        wire = await node_health(node)
        assert wire.state is HealthState.DEGRADED
        begin = time.monotonic()
        assert (await find(engine, Prompt.made("nowhere", 3))).hit_chunks == 0
        assert time.monotonic() - begin < 0.5  # it is left alone now

        faulty[0].faults = NO_FAULTS
        numbers = iter(range(1000))

        async def is_saved_in_both() -> bool:
            await put_and_save(engine, probe := Prompt.made(f"probe {next(numbers)}", 1))
            return set(await states_of(engine, probe)) == {SAVED}

        await eventually(is_saved_in_both, within=5, what="saves go to both")
        await eventually(is_in(node, "hung", HealthState.SERVING), within=5, what="serving")


async def node_health(node: Node) -> control.NodeHealth:
    return await node._refs.control.ask(control.GetHealth(), within=5)


def is_in(node: Node, store: str, state: HealthState) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return (await part(node, f"store[{store}]")).state is state

    return look


async def test_a_load_that_fails_is_tried_so_often_and_then_a_miss(
    tmp_path: Path, faulty: list[FaultyStore]
) -> None:
    """B7 (vllm#49176): every load of the store fails. Each is tried three times, then the engine hears how far it got
    and why, soon; what it computes instead is stored, and no request is ever stuck.

    Seen to fail with 99 attempts, whatever is configured.
    """
    files, prompt = Files(tmp_path / "kv"), Prompt.made("a", 5)
    lasting = {"failures": 1000, "window": "10s", "open_for": "1s"}
    store = files.config(faults={}, breaker=lasting)
    async with one_engine(store, prefetch__head_start="10s") as (node, engine):
        await put_and_save(engine, prompt)
        await purge(node)
        faulty[0].faults = FaultsConfig(fault=1.0)
        found = await find(engine, prompt)
        assert (found.hit_chunks, found.shortfall) == (0, pb.SHORTFALL_FAILED)
        text = node.telemetry.exposition().decode()
        batches = sample(text, "penstock_store_seconds_count", store="files", op="load")
        retries = sample(text, "penstock_store_retries_total", store="files", op="load")
        assert retries == 2 * batches > 0
        failed = counted(node, "store_operations_total", store="files", op="load", outcome="failed")
        assert failed == 1  # loaded ahead of the others: nothing beyond a hole is asked for
        assert await put(engine, prompt) == 5
        assert (await find(engine, prompt)).bodies == prompt.bodies


@pytest.mark.parametrize("load_ms", [0, 150], ids=["its own time", "the engine's time"])
async def test_a_load_that_never_ends_is_given_up_in_time(
    tmp_path: Path, faulty: list[FaultyStore], load_ms: int
) -> None:
    """B8 (vllm#49829): loads hang. The ticket is final when the store's time is over, or the engine's, if that is less;
    the engine goes on, and memory comes back.

    Seen to fail with loads that inherit no deadline.
    """
    files, prompt = Files(tmp_path / "kv"), Prompt.made("a", 5)
    slow = files.config(faults={}, load_within="400ms", attempts_max=1)
    async with one_engine(slow) as (node, engine):
        await put_and_save(engine, prompt)
        await purge(node)
        faulty[0].faults = FaultsConfig(hang=1.0)
        begin = time.monotonic()
        found = await find(engine, prompt, load_ms=load_ms)
        took = time.monotonic() - begin
        assert found.hit_chunks == 0
        assert found.shortfall in {pb.SHORTFALL_FAILED, pb.SHORTFALL_OUT_OF_TIME}
        assert took < (0.39 if load_ms else 2.0)
        assert await put(engine, prompt) == 5
        await nobody_reads(node)
        assert (await node.usage()).quarantined_bytes == 0


async def test_two_prompts_that_do_not_fit_together_are_both_over_soon(tmp_path: Path) -> None:
    """B13, single node: L1 has room for one of two prompts that are asked for at once. Nobody waits half-filled for
    the other: both tickets are final, one of them whole."""
    files = Files(tmp_path / "kv")
    small = {"l1__bytes": 24 * OBJECT_BYTES, "l1__high_water": 1.0, "l1__low_water": 1.0}
    prompts = [Prompt.made("one", 20), Prompt.made("other", 20)]
    async with one_engine(files.config(), **small) as (node, engine):
        for prompt in prompts:
            await put_and_save(engine, prompt)
            await purge(node)
        lookups = [await engine.lookup(prompt.keys) for prompt in prompts]
        hits = []
        for one in lookups:
            hits.append((await engine.last_progress(one.lookup.ticket)).hit_chunks)
        assert max(hits) == 20
        assert sum(hits) <= 24
        for one in lookups:
            await engine.ask(cancel=pb.Cancel(ticket=one.lookup.ticket))
        await purge(node)
        for prompt in prompts:
            assert (await find(engine, prompt)).bodies == prompt.bodies
            await purge(node)


async def test_a_load_passes_the_saves_that_wait(tmp_path: Path, faulty: list[FaultyStore]) -> None:
    """B15 (vllm#50031): every save takes long and many wait; a load of the same store comes back long before they
    are done, and a store beside it has everything meanwhile.

    Seen to fail with loads that start when no save waits.
    """
    slow, quick = Files(tmp_path / "slow"), Files(tmp_path / "quick")
    slow.name, quick.name = "slow", "quick"
    early = Prompt.made("early", 4)
    queue = [Prompt.made(f"p{number}", 4) for number in range(12)]
    config = slow.config(faults={}, saves_max=1)
    async with one_engine(config, quick.config()) as (node, engine):
        await put_and_save(engine, early)
        await purge(node)
        for path in quick.all():
            path.unlink()
        faulty[0].faults = FaultsConfig(slow=1.0, slow_for=0.1)  # type: ignore[arg-type]
        for prompt in queue:
            await put(engine, prompt)
        assert (await find(engine, early)).bodies == early.bodies
        states = await states_of(engine, queue[-1], within_ms=1)
        assert set(states[::2]) == {PENDING}
        assert set(states[1::2]) == {SAVED}
        faulty[0].faults = NO_FAULTS
        for prompt in queue:
            assert set(await states_of(engine, prompt)) == {SAVED}


async def test_room_for_a_reservation_is_made_by_saving_down_at_once(tmp_path: Path) -> None:
    """B17 with a store that gets what leaves: a full L1 answers a reservation with room, in the same breath, and what
    left is on the disk.

    Seen to fail with NO_ROOM answered at once.
    """
    files = Files(tmp_path / "kv")
    small = {"l1__bytes": 8 * OBJECT_BYTES, "l1__high_water": 1.0, "l1__low_water": 1.0}
    prompts = [Prompt.made(f"p{number}", 4) for number in range(8)]
    async with one_engine(files.config(write="on_evict"), **small) as (node, engine):
        for prompt in prompts:
            begin = time.monotonic()
            assert await put(engine, prompt) == 4
            assert time.monotonic() - begin < 1.0
        assert counted(node, "evicted_unsaved_chunks_total") == 0
        await purge_to_disk(node, engine)
        for prompt in prompts[:6]:
            assert (await find(engine, prompt)).bodies == prompt.bodies


async def purge_to_disk(node: Node, engine: RawEngine) -> None:
    """What is left in L1 goes, saved."""
    await node._refs.eviction.ask(eviction.MakeRoom(engine.welcome.arena_bytes), within=5)
    await nobody_reads(node)


async def test_a_store_that_fails_does_not_hold_up_the_end_of_the_node(tmp_path: Path) -> None:
    """B1: saves that failed, and nobody knows how, are still to be taken back when the node is told to stop.

    Seen to fail: it waited for that, 5 s, until it was cut off.
    """
    files = Files(tmp_path / "kv")
    async with one_engine(files.config(attempts_max=1, faults={"error": 1.0})) as (_, engine):
        await put_and_save(engine, Prompt.made("a", 3))
        told = time.monotonic()
    assert time.monotonic() - told < 3.0


async def test_a_store_that_is_gone_at_the_start_comes_back_by_itself(tmp_path: Path) -> None:
    """B1, B14: the disk of a store is not mounted when the node starts: the node serves without it, says so, and
    takes it up when it can."""
    disk, mounted = tmp_path / "disk", tmp_path / "mounted"
    disk.symlink_to(mounted)
    files, prompt = Files(disk / "kv"), Prompt.made("a", 3)
    config = files.config(open_within="100ms", breaker=BREAKER)
    async with one_engine(config) as (node, engine):
        assert (await part(node, "store[files]")).state is HealthState.DEGRADED
        await put(engine, prompt)
        assert (await find(engine, prompt)).bodies == prompt.bodies
        mounted.mkdir()
        await eventually(is_in(node, "files", HealthState.SERVING), within=15, what="serving")
        await put_and_save(engine, late := Prompt.made("late", 3))
        await purge(node)
        assert (await find(engine, late)).bodies == late.bodies
