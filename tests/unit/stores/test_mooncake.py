"""The mooncake store against a real pool whose processes are stopped, killed and started again."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from support.eventually import eventually
from support.mooncake_pool import HOST, MooncakePool, free_ports, mooncake_pool

from penstock.actors.api.types import Epoch
from penstock.actors.stores.key_turns import KeyTurns
from penstock.actors.stores.mooncake import MooncakeStore, open_mooncake_store
from penstock.actors.stores.mooncake_client import Code, Connection, SharedClient, is_over
from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreContext, StoreFault, StoreRefused
from penstock.runtime.units import MIB, ByteSize, Seconds

needs_mooncake = pytest.mark.skipif(
    importlib.util.find_spec("mooncake") is None, reason="pip install penstock[mooncake]"
)

CHILD = Path(__file__).parents[2] / "support/mooncake_child.py"


@pytest.fixture
def pool() -> Iterator[MooncakePool]:
    with mooncake_pool(segment_bytes=64 * MIB) as one:
        yield one


def config(master: str, **given: object) -> MooncakeConfig:
    settings = {"rpc_within": Seconds(0.5), "connect_within": Seconds(0.5), **given}
    return MooncakeConfig(name="pool", master=master, host=HOST, **settings)  # type: ignore[arg-type]


async def open_it(pool: MooncakePool, memory: memoryview | None = None) -> MooncakeStore:
    return await open_mooncake_store(
        config(pool.master), StoreContext("pool", Epoch(bytes(16)), memory=memory)
    )


async def fate_of(work: Awaitable[list[object]]) -> Fate:
    return (await work)[0].fate  # type: ignore[attr-defined, no-any-return]


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(18):
            await scene()

    anyio.run(bounded)


async def saved(store: MooncakeStore, sample: Sample) -> bool:
    return (await store.save([sample.given()]))[0].fate is Fate.DONE


@needs_mooncake
def test_a_master_that_is_not_there_is_a_fault_at_once() -> None:
    """B8: the library alone would try for a minute and a half, with the interpreter in its hands."""

    async def scene() -> None:
        nobody = config(f"{HOST}:{free_ports(1)[0]}")
        began = time.monotonic()
        with pytest.raises(StoreFault, match="mooncake_master at 127.0.0.1:.* cannot be reached"):
            await open_mooncake_store(nobody, StoreContext("pool", Epoch(bytes(16))))
        assert time.monotonic() - began < 2

    run(scene)


@needs_mooncake
def test_a_master_that_hangs_costs_its_deadlines_and_never_the_loop(pool: MooncakePool) -> None:
    """B8: opened, asked, closed: each ends with a typed fault, and it works again when the master does."""

    async def scene() -> None:
        store, sample = await open_it(pool), await make_sample(1, 50_000)
        assert await saved(store, sample)
        os.kill(pool.master_process.pid, signal.SIGSTOP)
        with pytest.raises(StoreFault, match="the master does not answer"):
            await store.locate(keys_of([sample]))
        assert await fate_of(store.load([sample.wanted()])) is Fate.FAULT
        assert await fate_of(store.save([(await make_sample(2, 5000)).given()])) is Fate.FAULT
        with pytest.raises(StoreFault, match="could not be deleted"):
            await store.delete(keys_of([await make_sample(3, 5000)]))
        with pytest.raises(StoreFault, match="timed out"):
            other = config(pool.master, tenant="other")
            await open_mooncake_store(other, StoreContext("pool", Epoch(bytes(16))))
        os.kill(pool.master_process.pid, signal.SIGCONT)
        assert await store.locate(keys_of([sample])) == b"\1"
        wanted = sample.wanted()
        assert await fate_of(store.load([wanted])) is Fate.DONE
        assert await sample.is_in(wanted)
        await store.aclose()

    run(scene)


@needs_mooncake
def test_a_master_that_was_killed_and_started_again_is_found_again(pool: MooncakePool) -> None:
    """B8: faults meanwhile; afterwards the pool is empty, which is misses, and saves work again."""

    async def scene() -> None:
        store, sample = await open_it(pool), await make_sample(1, 50_000)
        assert await saved(store, sample)
        await anyio.to_thread.run_sync(pool.kill, pool.master_process)
        with pytest.raises(StoreFault, match="the master"):
            await store.locate(keys_of([sample]))
        assert await fate_of(store.load([sample.wanted()])) is Fate.FAULT
        await anyio.to_thread.run_sync(pool.start_master)
        # Its machines come back to it by themselves.
        await eventually(lambda: saved(store, sample), within=12, what="a save")
        wanted = sample.wanted()
        assert await fate_of(store.load([wanted])) is Fate.DONE
        assert await sample.is_in(wanted)
        await store.aclose()

    run(scene)


@needs_mooncake
def test_memory_of_a_transfer_that_failed_is_kept(pool: MooncakePool) -> None:
    """A2: the machine that has the object dies; the library may not be done with our memory when it says so."""

    async def scene() -> None:
        store, sample = await open_it(pool), await make_sample(1, 50_000)
        assert await saved(store, sample)
        await anyio.to_thread.run_sync(pool.kill, pool.segment_process)
        wanted = sample.wanted()
        outcome = (await store.load([wanted]))[0]
        assert outcome.fate is Fate.FAULT
        assert outcome.reason.startswith("Mooncake's error")
        with store._client.use() as client:
            assert client.suspects == [wanted]
        await store.aclose()

    run(scene)


@needs_mooncake
def test_a_client_with_too_much_of_that_is_closed_and_replaced(pool: MooncakePool) -> None:
    shared = SharedClient(Connection.of(config(pool.master, suspect_max=ByteSize(4096))))
    with shared.use() as first:
        shared.suspect(first, ["a little"], 4096)
        with shared.use() as still:
            assert still is first
        shared.suspect(first, ["more"], 1)
        with shared.use() as second:
            assert second is not first
        assert first.suspects == ["a little", "more"]
    assert not first.suspects  # closed by its last user
    with shared.use() as client:
        assert client is second


@needs_mooncake
@pytest.mark.loop_step_ms(
    40
)  # it gives 80 MiB of its own back to the system at once, which no store does
def test_a_pool_without_room_is_full(pool: MooncakePool) -> None:
    async def scene() -> None:
        store = await open_it(pool)
        large = await make_sample(1, 80 * MIB)
        outcome = (await store.save([large.given()]))[0]
        assert outcome.fate is Fate.FULL
        assert "has room" in outcome.reason
        assert await fate_of(store.load([large.wanted()])) is Fate.MISSING
        await store.aclose()

    run(scene)


@needs_mooncake
def test_the_same_object_is_not_written_again(pool: MooncakePool) -> None:
    """Its header tells; one that differs replaces it. Another payload under the same header shows which was written."""

    async def scene() -> None:
        store, sample = await open_it(pool), await make_sample(1, 50_000)
        assert await saved(store, sample)
        again = replace(sample.given(), payload=fresh_pages([len(sample.payload)])[0])
        assert await fate_of(store.save([again])) is Fate.DONE
        wanted = sample.wanted()
        assert await fate_of(store.load([wanted])) is Fate.DONE
        assert await sample.is_in(wanted)
        await store.aclose()

    run(scene)


@needs_mooncake
def test_memory_that_was_told_beforehand_is_told_once(pool: MooncakePool) -> None:
    async def scene() -> None:
        arena, sample = fresh_pages([MIB])[0], await make_sample(1, 50_000)
        store = await open_it(pool, arena)
        assert await saved(store, sample)
        inside = replace(sample.wanted(), payload=arena[4096 : 4096 + len(sample.payload)])
        assert await fate_of(store.load([inside])) is Fate.DONE
        assert await sample.is_in(inside)
        with store._client.use() as client:
            assert len(client.memory._users) == 1
            await store.aclose()
            assert not client.memory._users

    run(scene)


@needs_mooncake
def test_a_process_ends_while_the_master_hangs(pool: MooncakePool) -> None:
    """A node's stop waits for nobody: its exit code is 0, and it comes soon."""
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, CHILD, pool.master, str(pool.master_process.pid)],
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert (child.returncode, child.stdout) == (0, "closed\n"), child.stderr
    assert time.monotonic() - began < 12


def test_without_the_library_opening_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mooncake.store", None)
    with pytest.raises(StoreRefused, match=r"pip install penstock\[mooncake\]"):
        with SharedClient(Connection.of(config(f"{HOST}:1"))).use():
            pass


@pytest.mark.parametrize("master", ["somewhere", ":50051", "host:", "host:0", "host:70000"])
def test_a_master_is_written_host_and_port(master: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        config(master)


def test_addresses() -> None:
    assert config("[::1]:50051").master_address() == ("::1", 50051)
    with pytest.raises(ValueError, match="devices are those of protocol: rdma"):
        config("host:1", devices="mlx5_0")


def test_what_is_over() -> None:
    """A2: what the library does not deny to be under way, is."""
    assert is_over(0)
    assert is_over(4096)
    assert is_over(Code.RPC_TIMEOUT)
    assert not is_over(-800)  # a transfer failed
    assert not is_over(-1)


def test_turns() -> None:
    """Readers together, changes alone, in order; one that is given up does not let others pass."""

    async def scene() -> None:
        turns = KeyTurns()
        first, second = turns.to_read([b"a", b"b"]), turns.to_read([b"a"])
        change = turns.to_change([b"a", b"c"])
        given_up = turns.to_change([b"c"])
        last = turns.to_read([b"c"])
        elsewhere = turns.to_change([b"d"])
        for one in (first, second, elsewhere):
            await one.come()
        waits = asyncio.ensure_future(last.come())
        given_up.end()
        first.end()
        await anyio.wait_all_tasks_blocked()
        assert not waits.done()
        second.end()
        await change.come()
        assert not given_up.over.done()
        change.end()
        await waits
        last.end()
        elsewhere.end()
        await turns.all_over()
        assert not turns._changes
        assert not turns._reads

    anyio.run(scene)
