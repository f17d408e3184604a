"""Deleting objects of a store, and making room by it.

A store deletes a batch or says that it failed. Then its objects are deleted one by one: those that went leave the
books, and one that cannot be deleted keeps no other from going. It counts as just used, so that the next to go is
another one. What went is known at every moment, so that the books are right when somebody gives up halfway; and a
deletion that was begun ends, even if whoever asked has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
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

Delete = Callable[[Keys, set[bytes]], Awaitable[None]]
"""Adds those that are gone to the set, as they go. Raises StoreFault when nothing could be deleted."""


@dataclass(slots=True)
class _Dropping:
    """A job of its own."""

    keys: Keys
    gone: set[bytes] = field(default_factory=set)
    fault: StoreFault | None = None
    is_done: asyncio.Event = field(default_factory=asyncio.Event)


async def drop(parts: Parts, keys: Keys, *, within_s: float) -> int:
    """Delete these, when nobody else changes them. How many of them the store had, as far as it knows.

    Raises StoreFault when some of them could not be deleted; they stay in the books then.
    """
    names = {*keys}
    await parts.turns.take(names)
    had = sum(parts.books.has(keys.packed)) if parts.books is not None else len(names)
    job = _Dropping(keys)
    parts.start_soon(partial(_drop, parts, job, within_s))
    await job.is_done.wait()
    if job.fault is not None:
        raise job.fault
    left = len(names) - len(job.gone)
    if left:
        raise StoreFault(f"{parts.config.name}: {left} objects could not be deleted")
    return min(had, len(names))


async def _drop(parts: Parts, job: _Dropping, within_s: float) -> None:
    try:
        await delete(parts, job.keys, job.gone, within_s=within_s)
    except StoreFault as fault:
        job.fault = fault
    finally:
        if parts.ledger is not None:
            parts.ledger.removed(job.gone)
        parts.turns.free({*job.keys})
        job.is_done.set()


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


async def delete(parts: Parts, keys: Keys, gone: set[bytes], *, within_s: float) -> None:
    """Adds those that are gone to `gone`, as they go. Raises StoreFault when nothing could be deleted."""
    await _counted(parts, partial(_guarded, parts, within_s), keys, gone)


async def delete_each(store: Store, keys: Keys, gone: set[bytes]) -> None:
    """As one batch, or one by one. Adds those that are gone to `gone`, as they go. Raises StoreFault when nothing could
    be deleted."""
    try:
        await store.delete(keys)
    except StoreFault as fault:
        problem = fault
    else:
        gone.update(keys)
        return
    for at, key in enumerate(keys, start=1):
        try:
            await store.delete(Keys.of([(key, keys.device(at - 1))]))
        except StoreFault as fault:
            problem = fault
        else:
            gone.add(key)
        if not gone and at in {ALONE_MAX, len(keys)}:
            raise problem


async def _evict(parts: Parts, short: Shortfall, delete_them: Delete) -> int:
    ledger = parts.ledger
    assert ledger is not None, "what is shared is not evicted by us"
    taken = parts.turns.taken
    victims = ledger.choose(short.bytes, EVICT_BATCH, without=taken, place=short.place)
    if not victims:
        return 0
    gone = set[bytes]()
    await parts.turns.take(victims)  # at once: none of them was taken
    try:
        await _counted(parts, delete_them, Keys.of([*victims.items()]), gone)
    finally:
        left = [key for key in victims if key not in gone]
        ledger.removed(gone)
        ledger.spare(left)
        ledger.touch(b"".join(left if gone else left[:ALONE_MAX]))  # of those that were tried
        parts.turns.free(victims)
        parts.metrics.evicted(len(gone))
    return len(victims)


async def _guarded(parts: Parts, within_s: float, keys: Keys, gone: set[bytes]) -> None:
    work = partial(delete_each, parts.store, keys, gone)
    await parts.writes.call(work, within_s=within_s, keys=keys)


async def _counted(parts: Parts, delete_them: Delete, keys: Keys, gone: set[bytes]) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        await delete_them(keys, gone)
    finally:
        parts.metrics.took(Op.DELETE, loop.time() - began_s)
        parts.metrics.add(Op.DELETE, "failed", len({*keys}) - len(gone))
        parts.metrics.add(Op.DELETE, "deleted", len(gone))
