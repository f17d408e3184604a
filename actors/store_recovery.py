"""Counting what an exclusive store holds, before anything is added to it: in the background, while loads work."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api.store import Keys
from penstock.actors.core.store_ledger import Record, StoreLedger
from penstock.actors.store_dropping import delete, make_room
from penstock.actors.store_parts import Parts
from penstock.actors.stores.store import Entry, StoreFault

PAUSE_S_MAX = 30.0
FOUND_MAX = 512  # objects counted in one step of the loop: some 2 us each


async def recover(parts: Parts) -> None:
    """Until the books are exact and within the capacity. What fails is tried again, for as long as it takes."""
    assert parts.ledger is not None, "what is shared is not counted"
    pause_s = 0.1
    while True:
        try:
            await count(parts, parts.ledger)
            await shrink(parts)
        except StoreFault as fault:
            parts.recovery.trouble = str(fault)
            parts.log.warning("recovery_failed", reason=str(fault), again_s=pause_s)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        else:
            break
    parts.recovered.set()
    ledger = parts.ledger
    parts.log.info("recovered", objects=ledger.objects, used_bytes=ledger.used_bytes)


async def count(parts: Parts, ledger: StoreLedger) -> None:
    """All that is there, into the books, whatever is saved and deleted meanwhile. Raises StoreFault."""
    fault: StoreFault | None = None
    with ledger.counting() as left:
        async for batch in parts.store.recover():
            surplus: list[Record] = []
            for start in range(0, len(batch), FOUND_MAX):
                await checkpoint()
                some = batch[start : start + FOUND_MAX]
                surplus += ledger.found([_record(one) for one in some if one.key not in left])
            if surplus:
                parts.log.warning_once("objects_max_reached", objects_max=parts.config.objects_max)
                try:
                    await _delete(parts, ledger, surplus)
                except StoreFault as refusal:  # to be told when the scan has ended by itself
                    fault = refusal
    if fault is not None:
        raise fault


async def shrink(parts: Parts) -> None:
    """Evict what is over: the capacity may be smaller than it was. Raises StoreFault."""
    assert parts.ledger is not None, "what is shared is not evicted by us"
    async with parts.room:
        for place in parts.ledger.places:
            await make_room(parts, 0, 0, place)


async def _delete(parts: Parts, ledger: StoreLedger, records: list[Record]) -> None:
    named = {one.key: one.device for one in records}
    await parts.turns.take(named)
    try:
        # What has been saved meanwhile stays: it is in the books.
        known = ledger.has(b"".join(named))
        new = [one for one, is_known in zip(named.items(), known, strict=True) if not is_known]
        if not new:
            return
        gone = set[bytes]()
        await delete(parts, Keys.of(new), gone, within_s=parts.config.save_within)
        parts.metrics.evicted(len(gone))
    finally:
        parts.turns.free(named)
    if left := len(new) - len(gone):
        raise StoreFault(f"{left} objects beyond objects_max could not be deleted")


def _record(entry: Entry) -> Record:
    return Record(entry.key, entry.device, entry.stored_bytes, entry.tenant)
