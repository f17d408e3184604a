"""The proof that what a store gave out is what was asked for.

read -> proven, all of a batch in one native call -> LOADED
            '-> looked at closely, each by itself -> why it is not; DAMAGED: dropped on the store
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api.store import Keys, Loaded, LoadOutcome, Target
from penstock.actors.store_dropping import drop
from penstock.actors.store_parts import Parts
from penstock.actors.stores.digests import runs_agree
from penstock.actors.stores.header import (
    DamagedHeader,
    ForeignHeader,
    Header,
    HeaderRefused,
    decode,
    expect,
    whole_blocks,
)
from penstock.actors.stores.proof import Read, prove
from penstock.actors.stores.store import Fate, Outcome, StoreFault

NO_TRANSFORM = b""
MISSING = Loaded(LoadOutcome.MISSING)
OBJECTS_A_STEP = 256  # of the loop, of those that are looked at closely: some microseconds each


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why something is not the object that was asked for, and whether it is a damaged one, whatever was asked for.
    All else may be good to others, or once the store is configured otherwise: it stays, on a store of our own, too."""

    reason: str
    is_damaged: bool


Proof: TypeAlias = "Header | _Refused | None"
"""None: nothing was read."""


async def judge(parts: Parts, read: Read) -> list[Loaded]:
    """What was read, looked at; what is not what it should be is dropped before this is told."""
    fates = [one.fate for one in read.outcomes]
    there: Sequence[int] = range(len(fates))
    if fates.count(Fate.DONE) < len(fates):
        there = [at for at, fate in enumerate(fates) if fate is Fate.DONE]
    some = read.only(there)
    proofs = await parts.digester.run(some.payloads_bytes, partial(prove, some))
    loaded = LoadOutcome.LOADED
    answers = [MISSING if proof is None else Loaded(loaded, *proof) for proof in proofs]
    if len(there) < len(fates) or None in proofs:
        proven = dict(zip(there, answers, strict=True))
        good = [at for at, one in proven.items() if one is not MISSING]
        left = sorted({*range(len(fates))}.difference(good))
        told = dict(zip(left, await _look_closely(parts, read.only(left)), strict=True))
        answers = [told[at] if at in told else proven[at] for at in range(len(fates))]
    return answers


async def _look_closely(parts: Parts, read: Read) -> list[Loaded]:
    """At those that were not proven."""
    targets, outcomes = read.targets, read.outcomes
    proofs: list[Proof] = []
    for target, header_data, outcome in zip(targets, read.headers, outcomes, strict=True):
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


def _check_header(parts: Parts, target: Target, data: memoryview, outcome: Outcome) -> Proof:
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


def _told(proof: Proof, outcome: Outcome) -> Loaded:
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


async def _drop_damaged(parts: Parts, targets: Sequence[Target], proofs: Sequence[Proof]) -> None:
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
