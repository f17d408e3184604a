"""Loading and locating: what a store gives out, and the proof that it is what was asked for.

WANTED -> place at the store -> read -> header -> digest -> LOADED
                                  |        '---------'----> DAMAGED: dropped on the store
                                  '-> MISSING, FAILED
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api.errors import StoreClogged
from penstock.actors.api.store import Keys, Load, Loaded, LoadOutcome, Locate, Purpose, Target
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.core.admission import Work
from penstock.actors.core.breaker import BreakerState, Tried
from penstock.actors.store_ahead import Ahead, ahead_of
from penstock.actors.store_dropping import drop
from penstock.actors.store_guard import Settled
from penstock.actors.store_metrics import Op
from penstock.actors.store_parts import Parts, Suspect
from penstock.actors.store_turns import Place
from penstock.actors.stores.digests import runs_agree
from penstock.actors.stores.header import (
    DamagedHeader,
    ForeignHeader,
    Header,
    HeaderRefused,
    decode,
    expect,
    header_bytes,
    whole_blocks,
)
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.store import Fate, Outcome, StoreFault, Wanted
from penstock.runtime.hazard import hazard
from penstock.runtime.units import KIB

NO_TRANSFORM = b""
OBJECTS_A_STEP = 256  # of the loop: some microseconds each
AT_ONCE_BYTES_MAX = 160 * KIB  # headers included: some tens of microseconds
MISSING = Loaded(LoadOutcome.MISSING)


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
    """As `locate`, from the books; None while they do not tell all."""
    if parts.books is None:
        return None
    keys = msg.keys
    found = parts.books.has(keys.packed) if parts.reads.is_closed else bytes(len(keys))
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
    proofs = [*map(partial(_check_header, parts), targets, headers, outcomes)]
    digests = parts.digester.at_once([one.payload[: one.logical_bytes] for one in targets])
    good = []
    for proof, digest in zip(proofs, digests, strict=True):
        if not _agree(proof, digest):
            return None
        good.append(proof)
    payload_bytes = sum([one.logical_bytes for one in targets])
    parts.speed.ended(timing, loop.time(), payload_bytes)
    # The rest is for later: the answer need not wait for it.
    loop.call_soon(_count_loaded, parts, keys, payload_bytes, loop.time() - timing.began_s)
    return tuple([Loaded(LoadOutcome.LOADED, one.digest, one.run_digests) for one in good])


def _count_loaded(parts: Parts, keys: bytes, payload_bytes: int, took_s: float) -> None:
    parts.metrics.took(Op.LOAD, took_s)
    parts.metrics.add(Op.LOAD, "loaded", len(keys) // KEY_BYTES)
    parts.metrics.moved(Op.LOAD, payload_bytes)
    if parts.ledger is not None:
        parts.ledger.touch(keys)


def _agree(header: Header | _Refused | None, digest: int) -> TypeGuard[Header]:
    """Whether this is the header of what was read, and whole."""
    if not isinstance(header, Header) or header.digest != digest:
        return False
    return runs_agree(digest, header.run_digests, header.logical_bytes)


async def load(parts: Parts, msg: Load) -> tuple[Loaded, ...]:
    """One per target. Raises StoreBusy."""
    asked = [*msg.targets]
    answers: list[Loaded] = [MISSING] * len(asked)
    if parts.books is not None:
        known = parts.books.has(b"".join(one.key for one in asked))
        there = [at for at, is_known in enumerate(known) if is_known]
    else:
        there = [*range(len(asked))]
    if there:
        some = [asked[at] for at in there]
        ahead = ahead_of(msg, parts) if len(some) == len(asked) else None
        for at, loaded in zip(there, await _load(parts, some, ahead), strict=True):
            answers[at] = loaded
    parts.metrics.count(Op.LOAD, (one.outcome.name.lower() for one in answers))
    sizes = zip(asked, answers, strict=True)
    moved = sum(t.logical_bytes for t, a in sizes if a.outcome is LoadOutcome.LOADED)
    parts.metrics.moved(Op.LOAD, moved)
    return tuple(answers)


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why something is not the object that was asked for, and whether it is a damaged one, whatever was asked for.
    All else may be good to others, or once the store is configured otherwise: it stays, on a store of our own, too."""

    reason: str
    is_damaged: bool


async def _load(parts: Parts, targets: list[Target], ahead: Ahead | None) -> list[Loaded]:
    sizes = [header_bytes(one.runs) for one in targets]
    if parts.reads.state is BreakerState.OPEN and parts.reads.probe_in_s() > 0:
        failed = Loaded(LoadOutcome.FAILED, reason=f"left alone: {parts.reads.reason}")
        return [failed] * len(targets)  # at once, and not behind those that wait for a place
    try:
        return await _load_in_place(parts, targets, sizes, ahead)
    except StoreClogged as refusal:
        parts.reads.failed(str(refusal))
        raise


async def _load_in_place(
    parts: Parts, targets: list[Target], sizes: list[int], ahead: Ahead | None
) -> list[Loaded]:
    count = sum(sizes) + sum(len(one.payload) for one in targets)
    taken = None if ahead is None else ahead.taken
    async with parts.gate.place(Work.LOAD, count, taken) as place:
        # What is changed while it is read is not struck off for being missing: it may be there again.
        with parts.turns.watched() as changed:
            loop = asyncio.get_running_loop()
            headers = fresh_pages(sizes) if ahead is None else ahead.headers
            timing = parts.speed.began(loop.time()) if ahead is None else ahead.timing
            read = await _read(parts, targets, headers, place, ahead)
            done = [outcome.fate is Fate.DONE for outcome in read.outcomes]
            pairs = zip(targets, done, strict=True)
            moved = sum(len(one.payload) for one, is_done in pairs if is_done)
            parts.speed.ended(timing, loop.time(), moved)
            parts.metrics.took(Op.LOAD, loop.time() - timing.began_s)
            await hazard("store.loaded")
            answers = await _judge(parts, targets, headers, read.outcomes)
            _keep_books(parts, targets, answers, changed)
        return answers


async def _read(
    parts: Parts,
    targets: list[Target],
    headers: list[memoryview],
    place: Place,
    ahead: Ahead | None,
) -> Settled:
    """Whatever may still write when this is over keeps the place's user."""
    user = place.user() if ahead is None else ahead.take_user()
    work = parts.store.load if ahead is None else ahead.load
    wanted = [
        Wanted(one.key, one.device, header, one.payload, (user, one.hold))
        for one, header in zip(targets, headers, strict=True)
    ]
    failed = 0
    try:
        read = await parts.reads.batch(work, wanted, within_s=parts.config.load_within)
        fates = [one.fate for one in read.outcomes]
        failed = fates.index(Fate.FAULT) if Fate.FAULT in fates else len(targets)
    finally:
        del user, wanted  # whoever keeps an error keeps this frame
        if failed < len(targets):
            one = targets[failed]
            size = len(headers[failed])
            parts.suspect.target = Suspect(one.key, one.device, size, len(one.payload))
    return read


async def _judge(
    parts: Parts, targets: list[Target], headers: list[memoryview], outcomes: list[Outcome]
) -> list[Loaded]:
    """What was read, looked at closely; what is not what it should be is dropped before this is told."""
    proofs: list[Header | _Refused | None] = []
    for target, header_data, outcome in zip(targets, headers, outcomes, strict=True):
        proofs.append(_check_header(parts, target, header_data, outcome))
        if len(proofs) % OBJECTS_A_STEP == 0:
            await checkpoint()
    good = [at for at, proof in enumerate(proofs) if isinstance(proof, Header)]
    digests = await parts.digester.of(
        [targets[at].payload[: targets[at].logical_bytes] for at in good]
    )
    for at, digest in zip(good, digests, strict=True):
        header = proofs[at]
        assert isinstance(header, Header)
        if digest != header.digest:
            proofs[at] = _Refused(f"digest {digest:016x}, saved as {header.digest:016x}", True)
        elif not runs_agree(header.digest, header.run_digests, header.logical_bytes):
            proofs[at] = _Refused("its run digests are not those of its digest", True)
    locked = [outcome.reason for outcome in outcomes if outcome.fate is Fate.LOCKED]
    if locked:
        parts.log.warning("locked", objects=len(locked), reason=locked[0])
    await _drop_damaged(parts, targets, proofs)
    return [_told(proof, outcome) for proof, outcome in zip(proofs, outcomes, strict=True)]


def _check_header(
    parts: Parts, target: Target, data: memoryview, outcome: Outcome
) -> Header | _Refused | None:
    """None: nothing was read."""
    if outcome.fate in {Fate.REFUSED, Fate.LOCKED, Fate.DAMAGED}:
        return _Refused(outcome.reason, outcome.fate is Fate.DAMAGED)
    if outcome.fate is not Fate.DONE:
        return None
    header: Header | None = None
    try:
        header = decode(data)
        expect(
            header,
            key=target.key,
            namespace=target.namespace,
            logical_bytes=target.logical_bytes,
            runs=target.runs,
            transform=NO_TRANSFORM,
        )
    except ForeignHeader as refusal:
        return _Refused(str(refusal), is_damaged=parts.ledger is not None)
    except HeaderRefused as refusal:
        is_another = header is not None and header.key != target.key
        return _Refused(str(refusal), isinstance(refusal, DamagedHeader) or is_another)
    if outcome.payload_bytes < whole_blocks(header.stored_bytes):
        short = f"{outcome.payload_bytes} bytes of {whole_blocks(header.stored_bytes)} are there"
        return _Refused(short, is_damaged=True)
    return header


def _told(proof: Header | _Refused | None, outcome: Outcome) -> Loaded:
    match proof:
        case Header():
            return Loaded(LoadOutcome.LOADED, proof.digest, proof.run_digests)
        case _Refused():
            outcome_told = LoadOutcome.DAMAGED if proof.is_damaged else LoadOutcome.MISSING
            return Loaded(outcome_told, reason=proof.reason)
        case None if outcome.fate is Fate.MISSING:
            return MISSING
        case _:
            return Loaded(LoadOutcome.FAILED, reason=outcome.reason)


async def _drop_damaged(
    parts: Parts, targets: list[Target], proofs: list[Header | _Refused | None]
) -> None:
    damaged = [
        (target, proof)
        for target, proof in zip(targets, proofs, strict=True)
        if isinstance(proof, _Refused) and proof.is_damaged
    ]
    if not damaged:
        return
    for target, refused in damaged:
        parts.log.warning("damaged", key=target.key.hex(), reason=refused.reason)
    parts.metrics.damaged(len(damaged))
    gone = {target.key: target.device for target, _ in damaged}
    # Bounded, as good objects wait to be told. What stays is refused whenever it is loaded, and dropped some day.
    within_s = parts.config.locate_within
    dropped = False
    with anyio.move_on_after(within_s), suppress(StoreFault):
        await drop(parts, Keys.of([*gone.items()]), within_s=within_s)
        dropped = True
    if not dropped:
        parts.log.warning("damaged_kept", objects=len(gone))


def _keep_books(
    parts: Parts, targets: list[Target], answers: list[Loaded], changed: set[bytes]
) -> None:
    if parts.ledger is None:
        return
    pairs = [*zip(targets, answers, strict=True)]
    loaded = [t.key for t, a in pairs if a.outcome is LoadOutcome.LOADED]
    parts.ledger.touch(b"".join(loaded))
    for key in loaded:
        parts.unusable.keys.pop(key, None)
    # What is missing with a reason is there, and stays.
    for target, answer in pairs:
        if answer.outcome is LoadOutcome.MISSING and answer.reason:
            parts.unusable.add(target.key)
    missing = {t.key for t, a in pairs if a.outcome is LoadOutcome.MISSING and not a.reason}
    parts.ledger.removed(missing - changed)
