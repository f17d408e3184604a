"""Objects in the memory of the node's own process: the dumb twin of every other store, and a real one.

It copies in slices, between which the loop has its turn. It begins empty, unless it is given the shelf of another one:
that is how tests restart it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice

from anyio.lowlevel import checkpoint

from penstock.actors.api.store import Keys
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.store import (
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    Wanted,
)
from penstock.runtime.units import MIB

SLICE_BYTES = MIB  # copied in one step of the loop
BATCH_MAX = 256  # entries told at a time


class MemoryConfig(StoreConfig, frozen=True, tag="memory"):
    """Memory beside the arena; `capacity` must be given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.capacity:
            raise ValueError("a memory store needs a capacity, such as 4GiB")


@dataclass(frozen=True, slots=True)
class Held:
    """One object as it was saved; never changed once it is on the shelf."""

    device: int
    tenant: bytes
    header: bytes
    slices: tuple[bytes, ...]  # of the payload
    payload_bytes: int


Shelf = dict[bytes, Held]  # by key, oldest first


class MemoryStore:
    """The objects on a shelf."""

    ownership = Ownership.EXCLUSIVE

    def __init__(self, shelf: Shelf | None = None, *, capacity_bytes: int = 0) -> None:
        self._shelf = {} if shelf is None else shelf
        self._capacity_bytes = capacity_bytes

    async def locate(self, keys: Keys) -> bytes:
        await checkpoint()
        return bytes(key in self._shelf for key in keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return [await self._load(one) for one in wanted]

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        return [await self._save(one) for one in given]

    async def delete(self, keys: Keys) -> None:
        await checkpoint()
        for key in keys:
            self._shelf.pop(key, None)

    async def recover(self) -> AsyncIterator[list[Entry]]:
        entries = iter([*self._shelf.items()])
        while batch := [*islice(entries, BATCH_MAX)]:
            await checkpoint()
            yield [
                Entry(
                    key, held.device, self.cost(len(held.header), held.payload_bytes), held.tenant
                )
                for key, held in batch
            ]

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return header_bytes + payload_bytes

    @property
    def capacity_bytes(self) -> int:
        return self._capacity_bytes

    async def aclose(self) -> None:
        """There is nothing to let go of."""

    def load_at_once(self, wanted: Sequence[Wanted]) -> list[Outcome] | None:
        outcomes = []
        for one in wanted:
            held = self._shelf.get(one.key)
            if held is None or _refusal(held, one) is not None:
                return None
            one.header[: len(held.header)] = held.header
            one.payload[: held.payload_bytes] = b"".join(held.slices)
            outcomes.append(Outcome(Fate.DONE, held.payload_bytes))
        return outcomes

    async def _load(self, wanted: Wanted) -> Outcome:
        await checkpoint()
        held = self._shelf.get(wanted.key)
        if held is None:
            return MISSING
        if (refusal := _refusal(held, wanted)) is not None:
            return refusal
        wanted.header[: len(held.header)] = held.header
        for number, part in enumerate(held.slices):
            await checkpoint()
            start = number * SLICE_BYTES
            wanted.payload[start : start + len(part)] = part
        return Outcome(Fate.DONE, held.payload_bytes)

    async def _save(self, given: Given) -> Outcome:
        slices = []
        for start in range(0, given.payload_bytes, SLICE_BYTES):
            await checkpoint()
            end = min(start + SLICE_BYTES, given.payload_bytes)
            slices.append(bytes(given.payload[start:end]))
        await checkpoint()
        self._shelf.pop(given.key, None)  # what is saved again is the youngest again
        self._shelf[given.key] = Held(
            given.device, given.tenant, bytes(given.header), tuple(slices), given.payload_bytes
        )
        return DONE


def _refusal(held: Held, wanted: Wanted) -> Outcome | None:
    size = held.payload_bytes
    if len(held.header) <= len(wanted.header) and size <= len(wanted.payload):
        return None
    there = f"{len(held.header)} + {size} bytes"
    room = f"{len(wanted.header)} + {len(wanted.payload)}"
    return Outcome(Fate.REFUSED, size, f"it has {there}, there is room for {room}")
