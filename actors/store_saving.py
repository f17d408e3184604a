"""Saving: room first, then the store, and the books agree with the medium whatever happens in between.

    SOURCES -> recovered -> nobody else changes these keys -> place at the store
            -> [ours alone: quota, evict, reserve] -> written -> settled
                                                         '- nobody knows whether: its place is given back, the object
                                                            is owed until it was taken back, then settled

From its place on a save is a job of its own: whoever asked may go away, and it ends all the same, so that what is on
the medium is always in the books.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import NamedTuple

import anyio

from penstock.actors.api.store import Keys, Saved, SaveOutcome, Source
from penstock.actors.core.admission import Entry, Work
from penstock.actors.core.breaker import BreakerState
from penstock.actors.core.store_ledger import Record, Shortfall, StoreLedger
from penstock.actors.store_dropping import delete, evict_within, make_room
from penstock.actors.store_guard import Settled
from penstock.actors.store_metrics import Op
from penstock.actors.store_parts import Parts
from penstock.actors.stores.header import (
    DIGEST_BYTES,
    header_bytes,
    whole_blocks,
)
from penstock.actors.stores.new_headers import make_headers, short_tenant
from penstock.actors.stores.store import DONE, Fate, Given, Outcome, Store, StoreFault
from penstock.runtime.hazard import hazard

SAVED = Saved(SaveOutcome.SAVED)
SEVERAL_PLACES = -1
TAKE_BACK_PAUSE_S_MAX = 30.0


@dataclass(slots=True)
class _Job:
    """One batch with its place at the store, and its keys, which nobody else changes until it ends."""

    sources: list[Source]  # no key twice
    keys: set[bytes]
    entry: Entry
    answers: dict[bytes, Saved] = field(default_factory=dict)
    is_done: asyncio.Event = field(default_factory=asyncio.Event)


class Saver:
    """The saves of a store's open life."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._jobs = 0
        self._is_idle = asyncio.Event()  # set iff _jobs == 0
        self._is_idle.set()

    async def save(self, sources: Sequence[Source]) -> tuple[Saved, ...]:
        """One per source. Raises StoreBusy."""
        parts = self._parts
        await parts.recovered.wait()
        here = self._here(sources)
        new = {one.key: one for one in sources if one.key not in here}
        answers = dict.fromkeys([one.key for one in sources], SAVED)
        if parts.ledger is not None:
            old = (key for key in answers if key not in new and key not in parts.unusable.keys)
            parts.ledger.touch(b"".join(old))
        if new:
            answers |= await self._save_new([*new.values()])
        told = tuple(answers[one.key] for one in sources)
        self._count(told)
        return told

    async def wait_idle(self) -> None:
        """Until nothing is being written. What is to be taken back is not waited for: a store that fails may never do
        it, and what is whole there when it is opened again is found and counted."""
        await self._is_idle.wait()

    def _count(self, told: Sequence[Saved]) -> None:
        metrics, saved = self._parts.metrics, told.count(SAVED)
        if saved:
            metrics.add(Op.SAVE, "saved", saved)
        if saved < len(told):
            metrics.count(Op.SAVE, (one.outcome.name.lower() for one in told if one != SAVED))

    def _here(self, sources: Sequence[Source]) -> set[bytes]:
        """What is named by its contents need not be saved again. Of a shared store nobody knows."""
        if self._parts.ledger is None:
            return set()
        keys = [one.key for one in sources]
        return {*compress(keys, self._parts.ledger.has(b"".join(keys)))}

    async def _save_new(self, sources: list[Source]) -> dict[bytes, Saved]:
        parts = self._parts
        if parts.writes.state is BreakerState.OPEN and parts.writes.probe_in_s() > 0:
            failed = _not_now(f"left alone: {parts.writes.reason}")
            return {one.key: failed for one in sources}
        with ExitStack() as held:
            keys = await parts.turns.take_unstuck({one.key for one in sources})
            held.callback(parts.turns.free, keys)
            owed = {one.key: _OWED for one in sources if one.key not in keys}
            if owed:
                sources = [one for one in sources if one.key in keys]
            if not sources:
                return owed
            size = sum([one.header + one.payload for one in _sizes(parts.store, sources)])
            entry = await parts.gate.enter(Work.SAVE, size, self._place_of(sources))
            job = _Job(sources, keys, entry)
            held.pop_all()
        self._jobs += 1
        self._is_idle.clear()
        parts.start_soon(partial(self._run, job))
        await job.is_done.wait()
        return job.answers | owed

    def _place_of(self, sources: Sequence[Source]) -> int:
        """Of those that go to several places, none that could hang alone."""
        places = {self._parts.place_of(one.key, one.device) for one in sources}
        return places.pop() if len(places) == 1 else SEVERAL_PLACES

    async def _run(self, job: _Job) -> None:
        unsure: dict[bytes, Record] = {}
        try:
            unsure = {one.key: one for one in await self._write(job)}
            job.sources.clear()  # their memory is theirs again, however long the rest takes
            job.is_done.set()
        finally:
            self._parts.gate.leave(job.entry)
            self._parts.turns.free(job.keys - unsure.keys())
            self._jobs -= 1
            if not self._jobs:
                self._is_idle.set()
        if unsure:
            await self._take_back(unsure)

    async def _write(self, job: _Job) -> list[Record]:
        """Fill in the answers. Returns those of which nobody knows whether they are on the medium."""
        parts = self._parts
        # Somebody may have saved them while these waited for their turn.
        job.answers = dict.fromkeys(self._here(job.sources), SAVED)
        if parts.owed.objects:
            for one in job.sources:
                if one.key not in job.answers and (refusal := self._owes_too_much(one)):
                    job.answers[one.key] = refusal
        sources = [one for one in job.sources if one.key not in job.answers]
        sizes = _sizes(parts.store, sources)
        records = {
            one.key: Record(one.key, one.device, size.cost, short_tenant(one))
            for one, size in zip(sources, sizes, strict=True)
        }
        if refused := await self._reserve(records):
            job.answers |= refused
            sources = [one for one in sources if one.key not in refused]
            sizes = _sizes(parts.store, sources)
        if not sources:
            return []
        await hazard("store.reserved")
        headers = await make_headers(sources, [one.header for one in sizes])
        given = [
            Given(
                one.key, one.device, short_tenant(one), header, one.payload, size.payload, one.hold
            )
            for one, size, header in zip(sources, sizes, headers, strict=True)
        ]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        done = await parts.writes.batch(
            partial(self._write_or_evict, set()), given, within_s=parts.config.save_within
        )
        parts.metrics.took(Op.SAVE, loop.time() - began_s)
        await hazard("store.written")
        return self._settle(job, sources, records, done)

    async def _reserve(self, records: dict[bytes, Record]) -> dict[bytes, Saved]:
        """Room in the books for these. Returns answers for those that get none."""
        ledger = self._parts.ledger
        if ledger is None:
            return {}
        together: dict[tuple[bytes | None, int], list[Record]] = {}
        for one in records.values():
            place = ledger.place_of(one.key, one.device)
            together.setdefault((one.tenant, place), []).append(one)
        refused: dict[bytes, Saved] = {}
        async with self._parts.room:
            for some in together.values():
                refusal = await self._room_for(ledger, some)
                if refusal is not None and len(some) > 1 and not refusal.is_passing:
                    refused |= await self._reserve_each(ledger, some)
                elif refusal is not None:
                    refused |= dict.fromkeys([one.key for one in some], refusal)
        return refused

    async def _reserve_each(
        self, ledger: StoreLedger, records: Sequence[Record]
    ) -> dict[bytes, Saved]:
        """As many of these as there is room for, which is not for all. Returns answers for the others."""
        refused: dict[bytes, Saved] = {}
        for one in records:
            refusal = await self._room_for(ledger, [one])
            if refusal is not None:
                refused[one.key] = refusal
        return refused

    async def _room_for(self, ledger: StoreLedger, records: Sequence[Record]) -> Saved | None:
        """Reserve it for these, of one tenant and one place. Else why there is not enough for all of them."""
        tenant, size = records[0].tenant, sum(one.size_bytes for one in records)
        assert tenant is not None, records[0]
        place = ledger.place_of(records[0].key, records[0].device)
        reason = ledger.refusal(tenant, size, place)
        if not reason and ledger.shortfall(size, len(records), place).bytes:
            try:
                reason = await make_room(self._parts, size, len(records), place)
            except StoreFault as fault:
                return _not_now(str(fault))
            # Meanwhile objects of the tenant may have been found, or the store may have become smaller.
            reason = reason or ledger.refusal(tenant, size, place)
        if reason:
            return Saved(SaveOutcome.NO_ROOM, reason)
        ledger.reserve(records)
        return None

    async def _write_or_evict(self, tried: set[bytes], given: Sequence[Given]) -> list[Outcome]:
        """One attempt. A store that is ours and full, against our books, gets room for another one."""
        parts = self._parts
        again = [(one.key, one.device) for one in given if one.key in tried]
        if again and parts.ledger is not None:
            # What an attempt may have left would lie beside what this one writes: there is room for one of them.
            await parts.store.delete(Keys.of(again))
        tried.update(one.key for one in given)
        outcomes = await parts.store.save(given)
        full = [one for one, out in zip(given, outcomes, strict=True) if out.fate is Fate.FULL]
        if not full or parts.ledger is None:
            return outcomes
        wanted = Counter[int]()
        for one in full:
            place = parts.ledger.place_of(one.key, one.device)
            wanted[place] += parts.store.cost(len(one.header), one.payload_bytes)
        evicted = 0
        for place, size in wanted.items():
            with suppress(StoreFault):
                evicted += await evict_within(parts, Shortfall(size, place))
        if not evicted:
            return outcomes
        second = iter(await parts.store.save(full))
        return [next(second) if out.fate is Fate.FULL else out for out in outcomes]

    def _settle(
        self, job: _Job, sources: list[Source], records: dict[bytes, Record], done: Settled
    ) -> list[Record]:
        parts = self._parts
        if done.outcomes.count(DONE) == len(sources):  # most, and soonest told
            keys = [one.key for one in sources]
            job.answers |= dict.fromkeys(keys, SAVED)
            parts.metrics.moved(Op.SAVE, sum([one.logical_bytes for one in sources]))
            self._are_saved(keys, [], {}, records)
            return []
        taken: dict[bytes, int] = {}
        saved: list[bytes] = []
        others: list[bytes] = []
        moved = 0
        for at, (source, outcome) in enumerate(zip(sources, done.outcomes, strict=True)):
            job.answers[source.key] = _told(outcome)
            if outcome.fate is Fate.DONE:
                saved.append(source.key)
                moved += source.logical_bytes
                if outcome.taken_bytes:
                    taken[source.key] = outcome.taken_bytes
            elif at not in done.unsure:
                others.append(source.key)
        parts.metrics.moved(Op.SAVE, moved)
        self._are_saved(saved, others, taken, records)
        return [records[sources[at].key] for at in sorted(done.unsure)]

    def _are_saved(
        self,
        saved: Sequence[bytes],
        others: Sequence[bytes],
        taken: Mapping[bytes, int],
        records: Mapping[bytes, Record],
    ) -> None:
        """Into the books, and `others` out of them. `taken`: bytes of those that took fewer than was reserved."""
        parts = self._parts
        if parts.ledger is not None:
            parts.ledger.settle(saved, others, taken)
        else:
            sizes = [taken.get(key, records[key].size_bytes) for key in saved]
            parts.written.add(sum(sizes), len(saved))

    def _owes_too_much(self, source: Source) -> Saved | None:
        """The answer, if nothing more is saved there now."""
        parts = self._parts
        owed = parts.owed.objects[parts.place_of(source.key, source.device)]
        if owed < parts.config.owed_max:
            return None
        return _not_now(f"{owed} objects there are to be deleted first, owed_max are allowed")

    async def _take_back(self, owed: dict[bytes, Record]) -> None:
        """Delete what may be there though its save failed: until then it counts as taken, and nobody finds it."""
        parts, ledger = self._parts, self._parts.ledger
        if ledger is None:
            parts.turns.free(owed.keys())
            return
        for one in owed.values():
            parts.owed.add(parts.place_of(one.key, one.device))
        pause_s = 0.1
        try:
            while True:
                keys = Keys.of([(one.key, one.device) for one in owed.values()])
                gone = set[bytes]()
                with suppress(StoreFault):
                    await delete(parts, keys, gone, within_s=parts.config.save_within)
                ledger.settle([], gone)
                parts.turns.free(gone)
                parts.turns.stick(owed.keys() - gone)
                for key in gone:
                    one = owed.pop(key)
                    parts.owed.paid(parts.place_of(key, one.device))
                if not owed:
                    return
                await anyio.sleep(max(pause_s, parts.writes.probe_in_s()))
                pause_s = min(2 * pause_s, TAKE_BACK_PAUSE_S_MAX)
        finally:
            parts.turns.free(owed.keys())


def _told(outcome: Outcome) -> Saved:
    if outcome.fate is Fate.DONE:  # most, and soonest said
        return SAVED
    match outcome.fate:
        case Fate.FULL:
            return Saved(SaveOutcome.NO_ROOM, outcome.reason)
        case Fate.FAULT:
            return _not_now(outcome.reason)
        case _:
            return Saved(SaveOutcome.FAILED, outcome.reason)


def _not_now(reason: str) -> Saved:
    """Asking again later may help."""
    return Saved(SaveOutcome.FAILED, reason, is_passing=True)


_OWED = _not_now("what an earlier save may have left there is to be deleted first")


class _Sizes(NamedTuple):
    """Of one object on the medium, padding included."""

    header: int
    payload: int
    cost: int


def _sizes(store: Store, sources: Sequence[Source]) -> list[_Sizes]:
    """Of each. Most of a batch are alike."""
    kinds = [(len(one.run_digests), one.logical_bytes) for one in sources]
    found: dict[tuple[int, int], _Sizes] = {}
    for kind in {*kinds}:
        header, payload = header_bytes(kind[0] // DIGEST_BYTES), whole_blocks(kind[1])
        found[kind] = _Sizes(header, payload, store.cost(header, payload))
    return [found[kind] for kind in kinds]
