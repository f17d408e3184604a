"""Loading and locating: what a store gives out, and the proof that it is what was asked for.

WANTED -> place at the store -> read -> proven (`store_proving.py`) -> LOADED
                                  |        '-> DAMAGED: dropped on the store
                                  '-> MISSING, FAILED
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from penstock.actors.api.errors import StoreClogged
from penstock.actors.api.store import (
    Load,
    Loaded,
    LoadOutcome,
    LoadPrefix,
    Locate,
    Purpose,
    Target,
)
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.core.admission import Work
from penstock.actors.core.breaker import BreakerState, Tried
from penstock.actors.store_ahead import Ahead, ahead_of, is_clear, wanted_of
from penstock.actors.store_guard import Settled
from penstock.actors.store_metrics import Op
from penstock.actors.store_parts import Parts, Suspect
from penstock.actors.store_proving import MISSING, judge
from penstock.actors.store_turns import Place
from penstock.actors.stores.header import header_bytes
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.proof import Read, prove
from penstock.actors.stores.store import Fate, StoreFault, Wanted
from penstock.runtime.hazard import hazard
from penstock.runtime.units import KIB

AT_ONCE_BYTES_MAX = 160 * KIB  # headers included: some tens of microseconds
SKIPPED = Loaded(LoadOutcome.SKIPPED)
FORMER = Loaded(LoadOutcome.FAILED, reason="what was begun before it was opened anew hangs")


async def locate(parts: Parts, msg: Locate) -> bytes:
    """One byte per key; zeros when the store cannot say in time."""
    if (known := locate_at_once(parts, msg)) is not None:
        return known
    keys = msg.keys
    nothing = bytes(len(keys))
    began_s = asyncio.get_running_loop().time()
    try:
        found = await parts.reads.call(
            partial(parts.store.locate, keys),
            within_s=parts.config.locate_within,
            tried=Tried.NAMES,
        )
    except StoreFault:
        if msg.purpose is Purpose.LOOKUP:
            parts.metrics.add(Op.LOCATE, "failed", len(keys))
        return nothing
    assert len(found) == len(keys), f"{parts.config.name}: {len(found)} of {len(keys)} answers"
    parts.metrics.took(Op.LOCATE, asyncio.get_running_loop().time() - began_s)
    _count_located(parts, msg.purpose, found)
    return found


def locate_at_once(parts: Parts, msg: Locate) -> bytes | None:
    """As `locate`, from the books, or from what the store knows by itself; None while they do not tell all."""
    keys = msg.keys
    if not parts.reads.is_closed and (parts.books is not None or parts.knowing is not None):
        found: bytes | None = bytes(len(keys))
    elif parts.books is not None:
        found = parts.books.has(keys.packed)
    else:
        found = None if parts.knowing is None else parts.knowing.locate_at_once(keys)
    if found is None:
        return None
    _count_located(parts, msg.purpose, found)
    return found


def _count_located(parts: Parts, purpose: Purpose, found: bytes) -> None:
    if purpose is not Purpose.LOOKUP:
        return
    missing = found.count(0)
    if missing:
        parts.metrics.add(Op.LOCATE, "missing", missing)
    if missing < len(found):
        parts.metrics.add(Op.LOCATE, "found", len(found) - missing)


def load_at_once(parts: Parts, targets: Sequence[Target]) -> tuple[Loaded, ...] | None:
    """As `load`, for few bytes that are at hand and all good. Else None: then nothing is counted, and `load` says why.

    No more than AT_ONCE_BYTES_MAX are read and digested in one step.
    """
    books, quick = parts.books, parts.quick
    if quick is None or books is None:
        return None
    sizes = [header_bytes(one.runs) for one in targets]
    moved = sum(sizes) + sum([len(one.payload) for one in targets])
    if moved > AT_ONCE_BYTES_MAX or not parts.reads.is_closed or not parts.gate.is_open(moved):
        return None
    keys = b"".join([one.key for one in targets])
    if 0 in books.has(keys):
        return None
    loop = asyncio.get_running_loop()
    timing = parts.speed.began(loop.time())
    headers = [memoryview(bytearray(size)) for size in sizes]
    wanted = [
        Wanted(one.key, one.device, header, one.payload, one.hold)
        for one, header in zip(targets, headers, strict=True)
    ]
    outcomes = quick.load_at_once(wanted)
    if outcomes is None:
        return None
    read = Read(targets, headers, outcomes)
    proofs = prove(read) if all(one.fate is Fate.DONE for one in outcomes) else [None]
    if None in proofs:
        return None
    payload_bytes = read.payloads_bytes
    parts.speed.ended(timing, loop.time(), payload_bytes)
    # The rest is for later: the answer need not wait for it.
    loop.call_soon(_count_loaded, parts, keys, payload_bytes, loop.time() - timing.began_s)
    return tuple([Loaded(LoadOutcome.LOADED, *proof) for proof in proofs if proof is not None])


def _count_loaded(parts: Parts, keys: bytes, payload_bytes: int, took_s: float) -> None:
    parts.metrics.took(Op.LOAD, took_s)
    parts.metrics.add(Op.LOAD, "loaded", len(keys) // KEY_BYTES)
    parts.metrics.moved(Op.LOAD, payload_bytes)
    if parts.ledger is not None:
        parts.ledger.touch(keys)


async def load(parts: Parts, msg: Load) -> tuple[Loaded, ...]:
    """One per target. Raises StoreBusy."""
    targets = msg.targets
    if not await is_clear(msg, parts):
        former = (FORMER,) * len(targets)
        _count(parts, targets, former)
        return former
    # What is being read already is not read by halves, whatever the books say now.
    ahead, books = ahead_of(msg, parts), parts.books
    known = b""
    if ahead is None and books is not None:
        known = books.has(b"".join([one.key for one in targets]))
    if 0 in known:
        answers = await _load_known(parts, msg, known)
    else:
        answers = await _load(parts, targets, ahead)
    _count(parts, targets, answers)
    return tuple(answers)


async def _load_known(parts: Parts, msg: Load, known: bytes) -> list[Loaded]:
    """By the books not all of it is there."""
    answers = [MISSING] * len(known)
    if isinstance(msg, LoadPrefix):
        hole = known.index(0)
        answers[hole + 1 :] = [SKIPPED] * (len(known) - hole - 1)
        known = known[:hole]
    there = [at for at, is_known in enumerate(known) if is_known]
    if there:
        loaded = await _load(parts, [msg.targets[at] for at in there], None)
        for at, one in zip(there, loaded, strict=True):
            answers[at] = one
    return answers


def _count(parts: Parts, targets: Sequence[Target], answers: Sequence[Loaded]) -> None:
    outcomes = [one.outcome for one in answers]
    loaded = outcomes.count(LoadOutcome.LOADED)
    if loaded == len(outcomes):
        size = sum([one.logical_bytes for one in targets])
    else:
        pairs = zip(targets, outcomes, strict=True)
        size = sum([one.logical_bytes for one, out in pairs if out is LoadOutcome.LOADED])
        others = [one.name.lower() for one in outcomes if one is not LoadOutcome.LOADED]
        parts.metrics.count(Op.LOAD, others)
    if loaded:
        parts.metrics.add(Op.LOAD, "loaded", loaded)
        parts.metrics.moved(Op.LOAD, size)


async def _load(parts: Parts, targets: Sequence[Target], ahead: Ahead | None) -> list[Loaded]:
    if parts.reads.state is BreakerState.OPEN and parts.reads.probe_in_s() > 0:
        failed = Loaded(LoadOutcome.FAILED, reason=f"left alone: {parts.reads.reason}")
        return [failed] * len(targets)  # at once, and not behind those that wait for a place
    try:
        return await _load_in_place(parts, targets, ahead)
    except StoreClogged as refusal:
        parts.reads.failed(str(refusal))
        raise


async def _load_in_place(
    parts: Parts, targets: Sequence[Target], ahead: Ahead | None
) -> list[Loaded]:
    sizes = [header_bytes(one.runs) for one in targets]
    payloads = [len(one.payload) for one in targets]
    count = sum(sizes) + sum(payloads)
    taken = None if ahead is None else ahead.taken
    async with parts.gate.place(Work.LOAD, count, taken) as place:
        # What is changed while it is read is not struck off for being missing: it may be there again.
        with parts.turns.watched() as changed:
            loop = asyncio.get_running_loop()
            headers = fresh_pages(sizes) if ahead is None else ahead.headers
            timing = parts.speed.began(loop.time()) if ahead is None else ahead.timing
            read = await _read(parts, targets, headers, place, ahead)
            if not read.is_all_done:
                pairs = zip(payloads, read.outcomes, strict=True)
                payloads = [size for size, outcome in pairs if outcome.fate is Fate.DONE]
            parts.speed.ended(timing, loop.time(), sum(payloads))
            parts.metrics.took(Op.LOAD, loop.time() - timing.began_s)
            await hazard("store.loaded")
            answers = await judge(parts, Read(targets, headers, read.outcomes))
            _keep_books(parts, targets, answers, changed)
        return answers


async def _read(
    parts: Parts,
    targets: Sequence[Target],
    headers: list[memoryview],
    place: Place,
    ahead: Ahead | None,
) -> Settled:
    """Whatever may still write when this is over keeps the place's user."""
    if ahead is None:
        work, wanted = parts.store.load, wanted_of(targets, headers, place.user())
    else:
        work, wanted = ahead.load, ahead.take_wanted()
    failed = 0
    try:
        read = await parts.reads.batch(work, wanted, within_s=parts.config.load_within)
        failed = len(targets) if read.is_all_done else _first_failed(read)
    finally:
        del wanted  # whoever keeps an error keeps this frame
        if failed < len(targets):
            one = targets[failed]
            size = len(headers[failed])
            parts.suspect.target = Suspect(one.key, one.device, size, len(one.payload))
    return read


def _first_failed(read: Settled) -> int:
    """None has failed: the number of all."""
    fates = [one.fate for one in read.outcomes]
    return fates.index(Fate.FAULT) if Fate.FAULT in fates else len(fates)


def _keep_books(
    parts: Parts, targets: Sequence[Target], answers: list[Loaded], changed: set[bytes]
) -> None:
    if parts.ledger is None:
        return
    loaded = [one.key for one in targets]
    pairs = []
    if [one.outcome for one in answers].count(LoadOutcome.LOADED) < len(answers):
        pairs = [*zip(targets, answers, strict=True)]
        loaded = [t.key for t, a in pairs if a.outcome is LoadOutcome.LOADED]
    parts.ledger.touch(b"".join(loaded))
    if parts.unusable.keys:
        for key in loaded:
            parts.unusable.keys.pop(key, None)
    if not pairs:
        return
    # What is missing with a reason is there, and stays.
    missing = [(t.key, a.reason) for t, a in pairs if a.outcome is LoadOutcome.MISSING]
    for key, reason in missing:
        if reason:
            parts.unusable.add(key)
    parts.ledger.removed({key for key, reason in missing if not reason} - changed)
