"""What data channels over NIXL are beyond the suite of all channels: the arena, silence, and peers that hang."""

from __future__ import annotations

import asyncio
import mmap
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec

import anyio
import anyio.lowlevel
import pytest
from support.channel_rig import Memory, Pair, connect, pattern, piece, send_and_see

from penstock.runtime.channel import ChannelLost, LandingSlot
from penstock.runtime.errors import CapacityError, StartFailed
from penstock.runtime.nixl_agent import INSTALL, NixlAgent, NixlFailed, NixlOptions
from penstock.runtime.nixl_channel import NixlEndpoint
from penstock.runtime.units import MIB

pytestmark = pytest.mark.skipif(
    find_spec("nixl_cu13") is None and find_spec("nixl_cu12") is None,
    reason=f"the library of nixl is missing: {INSTALL}",
)
ARENA_BYTES = 16 * MIB


@asynccontextmanager
async def pair_with_arenas(
    options: NixlOptions,
) -> AsyncIterator[tuple[Pair, mmap.mmap, mmap.mmap]]:
    arenas = mmap.mmap(-1, ARENA_BYTES), mmap.mmap(-1, ARENA_BYTES)
    dialer, listener = (NixlEndpoint(options, memoryview(one)) for one in arenas)
    try:
        near, far = await connect(dialer, listener)
        yield Pair(near, far, dialer, listener), *arenas
    finally:
        await dialer.aclose()
        await listener.aclose()


def play(
    scene: Callable[[Pair, mmap.mmap, mmap.mmap], Awaitable[None]],
    options: NixlOptions | None = None,
) -> None:
    async def run() -> None:
        async with pair_with_arenas(options or NixlOptions(close_within=1)) as (pair, ours, theirs):
            with anyio.fail_after(15):
                await scene(pair, ours, theirs)

    anyio.run(run)


@pytest.mark.loop_step_ms(200)  # comparing megabytes is the test's own
def test_from_arena_to_arena_nothing_is_registered_anew() -> None:
    async def scene(pair: Pair, ours: mmap.mmap, theirs: mmap.mmap) -> None:
        ours[:] = pattern(ARENA_BYTES)
        heard: list[int] = []
        come = anyio.Event()

        def arrived(numbers: object) -> None:
            heard.extend(numbers)  # type: ignore[call-overload]
            come.set()

        slots = [
            LandingSlot(memoryview(theirs)[at : at + MIB], theirs)
            for at in range(0, ARENA_BYTES, MIB)
        ]
        landing = pair.far.connection.open_landing(slots, arrived)
        assert len(landing.grant) < 32 + 16 * len(slots) + 1  # no metadata of memory
        view = memoryview(ours)
        pieces = [piece(view[at * MIB : (at + 1) * MIB], number=at, slot=at) for at in range(16)]
        await pair.near.connection.send(landing.grant, pieces)
        while len(heard) < 16:
            come = anyio.Event()
            await come.wait()
        assert sorted(heard) == [*range(16)]
        assert theirs[:] == ours[:]
        await landing.close()

    play(scene)


def test_endpoints_that_carry_nothing_cost_next_to_nothing() -> None:
    """C6: two endpoints with a connection between them: at most 0.5 % of a core each, measured."""

    async def scene(pair: Pair, _ours: mmap.mmap, _theirs: mmap.mmap) -> None:
        await send_and_see(pair, b"it works")
        begin_cpu, begin = time.process_time(), time.monotonic()
        with anyio.move_on_after(3):
            await anyio.sleep_forever()
        share = (time.process_time() - begin_cpu) / (time.monotonic() - begin)
        assert share <= 2 * 0.005, f"{share:.2%} of a core"

    play(scene)


def test_a_peer_that_does_not_answer_is_cut_off_in_time_and_memory_is_held_until_then() -> None:
    """A14, C8: without the sender's word, a landing is closed when the sender is cut off, and not before."""

    async def scene(pair: Pair, _ours: mmap.mmap, _theirs: mmap.mmap) -> None:
        memory = Memory(64)
        landing, _ = pair.far.open(memory)
        sender = pair.near.connection
        sender.hear = lambda _: None  # type: ignore[attr-defined]  # it hangs
        begin = time.monotonic()
        closing = asyncio.get_running_loop().create_future()
        async with anyio.create_task_group() as tasks:

            async def close() -> None:
                await landing.close()
                closing.set_result(time.monotonic())

            tasks.start_soon(close)
        assert 0.9 <= closing.result() - begin <= 5
        assert "does not say" in await pair.far.connection.wait_lost()

    play(scene)


def test_a_dial_that_is_refused_takes_no_other_connection_with_it() -> None:
    async def scene(pair: Pair, _ours: mmap.mmap, _theirs: mmap.mmap) -> None:
        with pytest.raises(ChannelLost, match="no answer"):
            await pair.dialer.dial(pair.listener.offer(), bytes(32), within=0.1)
        with anyio.move_on_after(1.5):  # longer than close_within
            await pair.near.connection.wait_lost()
        await send_and_see(pair, b"still there")
        assert pair.listener.strangers_refused == 1  # type: ignore[attr-defined]

    play(scene)


@pytest.mark.loop_step_ms(200)  # so many are no landing of ours
def test_more_slots_than_a_grant_holds_are_refused() -> None:
    """C10: how many there are is for the peer to say, too. Seen to fail: it was no error that anybody expected, and the
    actor that asked died of it."""

    async def scene(pair: Pair, ours: mmap.mmap, theirs: mmap.mmap) -> None:
        slots = [LandingSlot(memoryview(theirs)[:1], theirs)] * 4096
        with pytest.raises(CapacityError, match="too many for one grant"):
            pair.far.connection.open_landing(slots, lambda _: None)
        landing = pair.far.connection.open_landing(slots[:4000], lambda _: None)
        await landing.close()

    play(scene)


def test_what_is_asked_of_an_agent_in_the_moment_of_its_end_is_answered() -> None:
    """B8. Seen to fail: what its thread had not come to was never answered, and with it landings were never closed."""

    async def run() -> None:
        agent = NixlAgent(NixlOptions(), None, lambda _, __: None)
        agent.start()
        asked = asyncio.ensure_future(agent.tell("nobody", b"a word"))
        await anyio.lowlevel.checkpoint()
        await agent.aclose()
        with anyio.fail_after(5), pytest.raises(NixlFailed):
            await asked

    anyio.run(run)


def test_a_plugin_that_is_not_there_is_named() -> None:
    async def run() -> None:
        with pytest.raises(StartFailed, match="no plugin NONE"):
            NixlEndpoint(NixlOptions(plugin="NONE"))

    anyio.run(run)


ENDS = """
import asyncio, sys
from penstock.runtime.nixl_agent import NixlOptions
from penstock.runtime.nixl_channel import NixlEndpoint

async def main():
    for _ in range(2):
        await NixlEndpoint(NixlOptions()).aclose()

asyncio.run(main())
print("flushed")
sys.exit(7)
"""


def test_a_process_that_had_channels_ends_as_it_wants_to() -> None:
    """Seen to end by SIGSEGV in a destructor of the libraries."""
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "flushed\n"), done.stderr
