"""What every store must do, as checks: run by our tests over all stores, by `penstock store check` over yours.

    subject = Subject(open=lambda: open_my_store(directory), is_persistent=True)
    for check in CHECKS:
        await check(subject)

A check raises AssertionError with what went wrong. A subject is opened anew by each check, over the same medium.
"""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import anyio

from penstock.actors.api.store import Keys
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import Hold, Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Outcome, Ownership, Store, Wanted
from penstock.runtime.units import KIB, MIB

CANARY = 0xA5
HOLD_WITHIN_S = 10.0
CANCEL_STEPS = (*range(12), 16, 24, 40, 80, 160, 400, 1000)  # turns of the loop before giving up


@dataclass(frozen=True, slots=True)
class Subject:
    """A store to be checked. Its medium has room for 128 MiB and is used by nobody else."""

    open: Callable[[], Awaitable[Store]]
    is_persistent: bool  # what was saved is there when it is opened again
    objects_max_bytes: int = 32 * MIB  # the largest object it takes


Check = Callable[[Subject], Awaitable[None]]


@asynccontextmanager
async def opened(subject: Subject) -> AsyncIterator[Store]:
    """The store, closed when the body ends."""
    store = await subject.open()
    try:
        async for _ in store.recover():
            pass
        yield store
    finally:
        await store.aclose()


async def returns_what_was_saved(subject: Subject) -> None:
    """Objects of 4 KiB, 1 MiB, 32 MiB, and of sizes that are no whole blocks, in batches."""
    async with opened(subject) as store:
        for size, count in ((4 * KIB, 16), (MIB, 4), (32 * MIB, 1)):
            if size <= subject.objects_max_bytes:
                samples = [await make_sample(size + n, size, device=n % 3) for n in range(count)]
                await _save(store, samples)
                await _expect(store, samples)
                await store.delete(keys_of(samples))
        mixed = [await make_sample(n, size) for n, size in enumerate((1, 4095, 4097, 70_000))]
        await _save(store, mixed)
        await _expect(store, mixed)
        await store.delete(keys_of(mixed))


async def finds_nothing_that_was_not_saved(subject: Subject) -> None:
    async with opened(subject) as store:
        there, absent = await make_sample(100, 4096), await make_sample(101, 4096)
        await _save(store, [there])
        both = [absent, there, absent]
        assert await store.locate(keys_of(both)) == b"\0\1\0"
        wanted = [one.wanted() for one in both]
        fates = [one.fate for one in await store.load(wanted)]
        assert fates == [Fate.MISSING, Fate.DONE, Fate.MISSING], fates
        await store.delete(keys_of(both))
        await store.delete(keys_of(both))
        assert await store.locate(keys_of(both)) == bytes(3)


async def takes_empty_batches(subject: Subject) -> None:
    async with opened(subject) as store:
        assert await store.locate(Keys(b"", b"")) == b""
        assert await store.load([]) == []
        assert await store.save([]) == []
        await store.delete(Keys(b"", b""))


async def takes_a_key_twice(subject: Subject) -> None:
    """In one batch: saved, loaded and deleted."""
    async with opened(subject) as store:
        one, other = await make_sample(200, 9000), await make_sample(201, 9000)
        await _save(store, [one, other, one])
        await _expect(store, [one, one, other, one])
        await store.delete(keys_of([one, one, other]))
        assert await store.locate(keys_of([one, other])) == bytes(2)


async def replaces_an_object_by_another_of_its_name(subject: Subject) -> None:
    """Larger, smaller, as large: what is loaded is the latest, and of its length."""
    async with opened(subject) as store:
        for version, size in enumerate((4096, 300_000, 20_000, 20_000)):
            sample = await make_sample(300, size, version=version)
            await _save(store, [sample])
            await _expect(store, [sample])
        await store.delete(keys_of([sample]))


async def never_writes_beyond_the_memory_it_was_given(subject: Subject) -> None:
    """A11: an object larger than its place is refused, one that is smaller leaves the rest alone."""
    async with opened(subject) as store:
        large = await make_sample(400, 64 * KIB)
        await _save(store, [large])
        for room in (4 * KIB, 32 * KIB, 60 * KIB, 64 * KIB, 96 * KIB):
            header, memory = fresh_pages([len(large.header), 256 * KIB])
            memory[:] = bytes([CANARY]) * len(memory)
            begin = 64 * KIB
            payload = memory[begin : begin + room]
            outcome = (await store.load([Wanted(large.key, 0, header, payload, None)]))[0]
            fits = room >= 64 * KIB
            assert (outcome.fate is Fate.DONE) == fits, f"{room} bytes of room: {outcome}"
            touched = 64 * KIB if fits else room
            _untouched(memory[:begin])
            _untouched(memory[begin + touched :])
            if fits:
                assert outcome.payload_bytes == 64 * KIB, outcome
                assert bytes(memory[begin : begin + touched]) == bytes(large.payload)
        await store.delete(keys_of([large]))


async def is_whole_or_not_at_all_when_saving_is_given_up(subject: Subject) -> None:
    """A6: cancelled after any number of turns of the loop, nothing half is visible, and the memory is let go of."""
    async with opened(subject) as store:
        holds = _Holds()
        for number, steps in enumerate(CANCEL_STEPS):
            old = await make_sample(500, 200_000, version=2 * number)
            new = await make_sample(500, 200_000, version=2 * number + 1)
            fresh = await make_sample(510 + number, 200_000)
            await _save(store, [old])
            batch = [new.given(holds.make()), fresh.given(holds.make())]
            await _give_up(partial(store.save, batch), steps)
            del batch
            await _expect_one_of(store, [old, new])
            await _expect_one_of_or_none(store, [fresh])
            await store.delete(keys_of([fresh]))
        await holds.wait_gone()
        await store.delete(keys_of([old]))


async def lets_go_when_loading_is_given_up(subject: Subject) -> None:
    """A2: memory that a load may still write to is kept until it does not; what comes later is not disturbed."""
    async with opened(subject) as store:
        samples = [await make_sample(600 + n, 200_000) for n in range(3)]
        await _save(store, samples)
        holds = _Holds()
        for steps in CANCEL_STEPS:
            wanted = [one.wanted(holds.make()) for one in samples]
            await _give_up(partial(store.load, wanted), steps)
            del wanted
        await holds.wait_gone()
        await _expect(store, samples)
        await store.delete(keys_of(samples))


async def is_there_when_opened_again(subject: Subject) -> None:
    """C2: what was saved is there after a restart, and its bytes are counted exactly, beside what was there before."""
    samples = [await make_sample(700 + n, size) for n, size in enumerate((1, 4096, 70_000, MIB))]
    gone = await make_sample(710, 9000)
    before: set[bytes] = set()
    store = await subject.open()
    try:
        before |= {entry.key async for batch in store.recover() for entry in batch}
        taken = await _save(store, [*samples, gone])
        await store.delete(keys_of([gone]))
    finally:
        await store.aclose()
    store = await subject.open()
    try:
        if subject.is_persistent:
            await _expect(store, samples)  # loads work while it is being recovered
        found = [entry async for batch in store.recover() for entry in batch]
        if store.ownership is Ownership.EXCLUSIVE:
            ours = {one.key for one in found}
            expected = before | {one.key for one in samples} if subject.is_persistent else set()
            assert ours == expected, f"{len(ours)} found, {len(expected)} expected"
            assert len(found) == len(ours), "an object was told twice"
            for entry in found:
                assert entry.stored_bytes == taken.get(entry.key, entry.stored_bytes), entry
        else:
            assert not found, "a store that is shared is not counted"
        if subject.is_persistent:
            await _expect(store, samples)
        await store.delete(keys_of(samples))
    finally:
        await store.aclose()


async def serves_many_at_once(subject: Subject) -> None:
    """Loads, saves and deletes of the same few keys, all at once: whatever is loaded is one version, whole."""
    draw = random.Random(8)
    async with opened(subject) as store:
        versions = [
            [await make_sample(800 + n, 60_000, version=v) for v in range(3)] for n in range(4)
        ]

        async def save(sample: Sample) -> None:
            await _save(store, [sample])

        async def load(choices: list[Sample]) -> None:
            await _expect_one_of_or_none(store, choices)

        async def delete(sample: Sample) -> None:
            await store.delete(keys_of([sample]))

        async with anyio.create_task_group() as group:
            for _ in range(60):
                choices = versions[draw.randrange(len(versions))]
                match draw.randrange(6):
                    case 0:
                        group.start_soon(delete, choices[0])
                    case 1 | 2 | 3:
                        group.start_soon(load, choices)
                    case _:
                        group.start_soon(save, draw.choice(choices))
        for choices in versions:
            await _save(store, [choices[1]])
            await _expect(store, [choices[1]])
            await store.delete(keys_of([choices[1]]))


async def closes_twice(subject: Subject) -> None:
    store = await subject.open()
    await store.aclose()
    await store.aclose()


CHECKS: tuple[Check, ...] = (
    returns_what_was_saved,
    finds_nothing_that_was_not_saved,
    takes_empty_batches,
    takes_a_key_twice,
    replaces_an_object_by_another_of_its_name,
    never_writes_beyond_the_memory_it_was_given,
    is_whole_or_not_at_all_when_saving_is_given_up,
    lets_go_when_loading_is_given_up,
    is_there_when_opened_again,
    serves_many_at_once,
    closes_twice,
)


async def _save(store: Store, samples: list[Sample]) -> dict[bytes, int]:
    """How many bytes of the medium each takes, by key."""
    taken: dict[bytes, int] = {}
    outcomes = await store.save([one.given() for one in samples])
    for one, outcome in zip(samples, outcomes, strict=True):
        assert outcome.fate is Fate.DONE, outcome
        most = store.cost(len(one.header), len(one.payload))
        assert outcome.taken_bytes <= most, "it took more than a save is counted as beforehand"
        taken[one.key] = outcome.taken_bytes or most
    return taken


async def _expect(store: Store, samples: list[Sample]) -> None:
    assert await store.locate(keys_of(samples)) == b"\1" * len(samples)
    wanted = [one.wanted() for one in samples]
    for one, into, outcome in zip(samples, wanted, await store.load(wanted), strict=True):
        assert outcome.fate is Fate.DONE, outcome
        assert outcome.payload_bytes == len(one.payload), outcome
        assert await one.is_in(into), f"other bytes than were saved, of {one.logical_bytes}"


async def _expect_one_of(store: Store, choices: list[Sample]) -> None:
    assert await _expect_one_of_or_none(store, choices), "nothing is there"


async def _expect_one_of_or_none(store: Store, choices: list[Sample]) -> bool:
    """Whether anything is there."""
    wanted = choices[0].wanted()
    outcome: Outcome = (await store.load([wanted]))[0]
    if outcome.fate is Fate.MISSING:
        return False
    assert outcome.fate is Fate.DONE, outcome
    assert any([await one.is_in(wanted) for one in choices]), "a mixture of versions"
    return True


async def _give_up(work: Callable[[], Awaitable[object]], steps: int) -> None:
    """Do `work`, for so many turns of the loop. Not in a task, whose frames anyio would keep in a circle."""
    with anyio.CancelScope() as scope:
        _cancel_after(steps, scope)
        await work()


def _cancel_after(steps: int, scope: anyio.CancelScope) -> None:
    if steps:
        asyncio.get_running_loop().call_soon(_cancel_after, steps - 1, scope)
    else:
        scope.cancel()


class _Holds:
    """Makes holds, and sees them die, on whatever thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._alive = 0
        self._changed = asyncio.Event()

    def make(self) -> Hold:
        hold = Hold()
        self._alive += 1
        weakref.finalize(hold, self._died_somewhere).atexit = False
        return hold

    def _died_somewhere(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the check has failed before
            self._loop.call_soon_threadsafe(self._died)

    def _died(self) -> None:
        self._alive -= 1
        self._changed.set()

    async def wait_gone(self) -> None:
        """Without the garbage collector, which comes by rarely in a node that serves."""
        with anyio.move_on_after(HOLD_WITHIN_S):
            while self._alive:
                self._changed.clear()
                await self._changed.wait()
        late = f"memory is held {HOLD_WITHIN_S:g} s after its use was given up"
        assert not self._alive, f"{late}: by work that goes on, or by the frames of an error"


def _untouched(memory: memoryview) -> None:
    assert bytes(memory) == bytes([CANARY]) * len(memory), "memory beside the place was written to"
