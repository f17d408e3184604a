"""Deleting objects of a store, and making room by it."""

from __future__ import annotations

import asyncio
from functools import partial

from penstock.actors.api.store import Keys
from penstock.actors.store_metrics import Op
from penstock.actors.store_parts import Parts

EVICT_BATCH = 256  # objects evicted in one call of the store


async def drop(parts: Parts, keys: Keys, *, within_s: float) -> int:
    """Delete these, when nobody else changes them. How many of them the store had, as far as it knows.

    Raises StoreFault; they stay in the books then.
    """
    names = {*keys}
    await parts.turns.take(names)
    try:
        had = sum(parts.books.has(keys.packed)) if parts.books is not None else len(names)
        await _delete(parts, keys, within_s=within_s)
        if parts.ledger is not None:
            parts.ledger.removed(names)
            if not parts.recovered.is_set():
                parts.dropped.update(names)
        return min(had, len(names))
    finally:
        parts.turns.free(names)


async def make_room(parts: Parts, size_bytes: int, objects: int) -> str:
    """Evict until so much fits. Empty: it does now, until the next await; else why not.

    To be called by one at a time. Raises StoreFault.
    """
    ledger = parts.ledger
    assert ledger is not None, "what is shared is not evicted by us"
    while (short := ledger.shortfall_bytes(size_bytes, objects)) > 0:
        if not await evict(parts, short):
            return f"{short} bytes too few, and nothing may be evicted"
    return ""


async def evict(parts: Parts, bytes_wanted: int) -> int:
    """Evict at least about so many bytes, as far as there is something to evict. How many objects went."""
    ledger = parts.ledger
    assert ledger is not None, "what is shared is not evicted by us"
    victims = ledger.choose(bytes_wanted, EVICT_BATCH, without=parts.turns.taken)
    if not victims:
        return 0
    chosen = [*victims]
    await parts.turns.take(chosen)  # at once: none of them was taken
    gone = False
    try:
        await _delete(parts, Keys.of([*victims.items()]), within_s=parts.config.save_within)
        gone = True
    finally:
        if gone:
            ledger.removed(chosen)
        else:
            ledger.spare(chosen)
        parts.turns.free(chosen)
    parts.metrics.evicted(len(chosen))
    return len(chosen)


async def _delete(parts: Parts, keys: Keys, *, within_s: float) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    outcome = "failed"
    try:
        await parts.writes.call(partial(parts.store.delete, keys), within_s=within_s)
        outcome = "deleted"
    finally:
        parts.metrics.took(Op.DELETE, loop.time() - began_s)
        parts.metrics.count(Op.DELETE, [outcome] * len(keys))
