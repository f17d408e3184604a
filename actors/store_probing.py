"""Trying a store that is left alone, although nobody asks: B14, and health shows that it works again. One that is asked
by none who could tell whether it works is tried, too.

A probe is of the kind that failed. Reads are tried with an object that could not be loaded, in memory of our own; a
store that says what it has and gives out none of it does not pass. Writes are tried by deleting what is not there, at
another place of the medium each time: one that hangs does not keep the store from the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import anyio

from penstock.actors.api.errors import StoreBusy, StoreClogged
from penstock.actors.api.store import DEVICE_BYTES, Keys
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.core.admission import Work
from penstock.actors.core.breaker import Tried
from penstock.actors.store_guard import Guard
from penstock.actors.store_parts import Parts
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.store import StoreFault, Wanted

PROBE = Keys(
    bytes(KEY_BYTES), bytes(DEVICE_BYTES)
)  # nothing is called so: whether it is there is no matter
PLACE_AT = 8  # media of several places choose among them by these bytes of a key, or by the device
PLACES = 8  # that are tried in turn
PAUSE_S_MIN = 0.1  # while somebody else's probe is under way


async def probe(guard: Guard, attempt: Callable[[], Awaitable[None]]) -> None:
    """`attempt`, whenever `guard` would let one through, until it is known to work, as long as the store is open."""
    while True:
        await guard.in_doubt.wait()
        while not guard.is_sound:
            await anyio.sleep(max(guard.probe_in_s(), PAUSE_S_MIN))
            with suppress(StoreFault, StoreBusy):
                await attempt()
        guard.in_doubt.clear()


async def try_reads(parts: Parts) -> None:
    """Raises StoreFault, StoreBusy."""
    suspect = parts.suspect.target
    if parts.reads.broken is Tried.NAMES or suspect is None:
        await parts.reads.call(
            partial(parts.store.locate, PROBE),
            within_s=parts.config.locate_within,
            tried=parts.reads.broken,
        )
        return
    sizes = [suspect.header_bytes, suspect.payload_bytes]
    try:
        async with parts.gate.place(Work.LOAD, sum(sizes)) as place:
            await _load(parts, suspect.key, suspect.device, sizes, place.user())
    except StoreClogged as refusal:
        parts.reads.failed(str(refusal))
        raise


async def _load(parts: Parts, key: bytes, device: int, sizes: list[int], hold: object) -> None:
    header, payload = fresh_pages(sizes)
    wanted = Wanted(key, device, header, payload, hold)
    await parts.reads.try_batch(
        partial(parts.store.load, [wanted]), within_s=parts.config.load_within
    )


async def try_writes(parts: Parts) -> None:
    """Raises StoreFault."""
    keys = _elsewhere(parts, parts.writes.openings % PLACES)
    within_s = parts.config.locate_within
    await parts.writes.call(partial(parts.store.delete, keys), within_s=within_s, keys=keys)


def _elsewhere(parts: Parts, number: int) -> Keys:
    """Like PROBE, at another place for another number; or that."""
    key = bytearray(KEY_BYTES)
    key[PLACE_AT : PLACE_AT + 8] = number.to_bytes(8, "little")
    first = parts.place_of(PROBE[0], PROBE.device(0))
    if parts.place_of(bytes(key), number) == first:  # or a device that has none
        return PROBE
    return Keys.of([(bytes(key), number)])
