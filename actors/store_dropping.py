"""Deleting objects of a store, and making room by it.

A store deletes a batch or says that it failed. Then its objects are deleted one by one: those that went leave the
books, and one that cannot be deleted keeps no other from going. It counts as just used, so that the next to go is
another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from penstock.actors.api.store import Keys
from penstock.actors.core.store_ledger import Shortfall
from penstock.actors.store_metrics import Op
from penstock.actors.store_parts import Parts
from penstock.actors.stores.store import Store, StoreFault

EVICT_BATCH = 256  # objects evicted in one call of the store
ALONE_MAX = (
    8  # objects that fail one after the other, and none went: then it is the store that fails
)
ROUNDS_MAX = 4  # of evictions that all fail, for one save

Delete = Callable[[Keys], Awaitable[list[bytes]]]
"""Those that are still there. Raises StoreFault when nothing could be deleted."""


async def drop(parts: Parts, keys: Keys, *, within_s: float) -> int:
    """Delete these, when nobody else changes them. How many of them the store had, as far as it knows.

    Raises StoreFault when some of them could not be deleted; they stay in the books then.
    """
    names = {*keys}
    await parts.turns.take(names)
    try:
        had = sum(parts.books.has(keys.packed)) if parts.books is not None else len(names)
        left = await delete(parts, keys, within_s=within_s)
        gone = names.difference(left)
        if parts.ledger is not None:
            parts.ledger.removed(gone)
        if left:
            raise StoreFault(f"{parts.config.name}: {len(left)} objects could not be deleted")
        return min(had, len(names))
    finally:
        parts.turns.free(names)


async def make_room(parts: Parts, size_bytes: int, objects: int, place: int) -> str:
    """Evict until so much fits there. Empty: it does now, until the next await; else why not.

    To be called by whoever has `parts.room`. Raises StoreFault.
    """
    ledger = parts.ledger
    assert ledger is not None, "what is shared is not evicted by us"
    failed = 0
    while (short := ledger.shortfall(size_bytes, objects, place)).bytes:
        try:
            if not await evict(parts, short):
                return f"{short.bytes} bytes too few, and nothing may be evicted"
        except StoreFault:
            failed += 1
            if failed == ROUNDS_MAX or not parts.writes.is_closed:
                raise
    return ""


async def evict(parts: Parts, short: Shortfall) -> int:
    """Evict at least about so many bytes from there, as far as there is something. How many objects were chosen.

    Raises StoreFault when none of them could be deleted.
    """
    return await _evict(parts, short, partial(_guarded, parts, parts.config.save_within))


async def evict_within(parts: Parts, short: Shortfall) -> int:
    """As `evict`, as a part of what the breaker of writes has let through."""
    return await _evict(parts, short, partial(delete_each, parts.store))


async def delete(parts: Parts, keys: Keys, *, within_s: float) -> list[bytes]:
    """Those that are still there. Raises StoreFault when nothing could be deleted."""
    return await _counted(parts, partial(_guarded, parts, within_s), keys)


async def delete_each(store: Store, keys: Keys) -> list[bytes]:
    """As one batch, or one by one. Those that are still there. Raises StoreFault when nothing could be deleted."""
    try:
        await store.delete(keys)
    except StoreFault as fault:
        problem = fault
    else:
        return []
    left: list[bytes] = []
    for at, key in enumerate(keys):
        try:
            await store.delete(Keys.of([(key, keys.device(at))]))
        except StoreFault as fault:
            problem = fault
            left.append(key)
        nothing_went = len(left) == at + 1
        if nothing_went and len(left) in {ALONE_MAX, len(keys)}:
            raise problem
    return left


async def _evict(parts: Parts, short: Shortfall, delete_them: Delete) -> int:
    ledger = parts.ledger
    assert ledger is not None, "what is shared is not evicted by us"
    taken = parts.turns.taken
    victims = ledger.choose(short.bytes, EVICT_BATCH, without=taken, place=short.place)
    if not victims:
        return 0
    left = [*victims]
    await parts.turns.take(victims)  # at once: none of them was taken
    try:
        left = await _counted(parts, delete_them, Keys.of([*victims.items()]))
    finally:
        gone = victims.keys() - set(left)
        ledger.removed(gone)
        ledger.spare(left)
        ledger.touch(b"".join(left if gone else left[:ALONE_MAX]))  # of those that were tried
        parts.turns.free(victims)
        parts.metrics.evicted(len(gone))
    return len(victims)


async def _guarded(parts: Parts, within_s: float, keys: Keys) -> list[bytes]:
    work = partial(delete_each, parts.store, keys)
    return await parts.writes.call(work, within_s=within_s, keys=keys)


async def _counted(parts: Parts, delete_them: Delete, keys: Keys) -> list[bytes]:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    failed = len(keys)
    try:
        left = await delete_them(keys)
        failed = len(left)
        return left
    finally:
        parts.metrics.took(Op.DELETE, loop.time() - began_s)
        parts.metrics.add(Op.DELETE, "failed", failed)
        parts.metrics.add(Op.DELETE, "deleted", len(keys) - failed)
