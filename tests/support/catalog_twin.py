"""The catalog's dumb twin: what is in it, not which goes first. And a dumb all-knowing cache."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from penstock._native import Catalog, Policy

NOWHERE = 2**64 - 1
BLOCK_BYTES = 4096


def key(number: int) -> bytes:
    """Keys are digests: policies rely on that."""
    return hashlib.sha256(b"%d" % number).digest()


def keys(numbers: Iterable[int]) -> bytes:
    return b"".join(map(key, numbers))


def numbers(packed: bytes, below: int) -> list[int]:
    known = {key(number): number for number in range(below)}
    return [known[packed[at : at + 32]] for at in range(0, len(packed), 32)]


def u64s(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def u32s(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def catalog_of(policy: Policy, *, objects: int, objects_max: int = 0) -> Catalog:
    """Room for so many blocks."""
    return Catalog(
        objects_max=objects_max or objects, capacity_bytes=objects * BLOCK_BYTES, policy=policy
    )


def replayed_hits(catalog: Catalog, prompts: Sequence[Sequence[int]]) -> int:
    packed = keys(one for prompt in prompts for one in prompt)
    return catalog.replay(packed, u32s([*map(len, prompts)]), object_bytes=BLOCK_BYTES).hits


@dataclass
class CatalogTwin:
    """Flat: objects rest on nothing."""

    items: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # bytes, place, tenant
    chosen: set[int] = field(default_factory=set)

    def put(self, number: int, item: tuple[int, int, int]) -> None:
        self.items[number] = item
        self.chosen.discard(number)

    def touch(self, those: Sequence[int]) -> int:
        here = [one for one in those if one in self.items]
        self.chosen.difference_update(here)
        return len(here)

    def remove(self, those: Sequence[int]) -> int:
        here = set(those) & self.items.keys()
        for one in here:
            del self.items[one]
        self.chosen -= here
        return len(here)

    def spare(self, those: Sequence[int]) -> int:
        here = set(those) & self.chosen
        self.chosen -= here
        return len(here)

    @property
    def used_bytes(self) -> int:
        return sum(size for size, _, _ in self.items.values())

    def bytes_of(self, tenant: int) -> int:
        return sum(size for size, _, owner in self.items.values() if owner == tenant)


def optimum_twin(references: Sequence[int], capacity: int) -> int:
    """Keep what is asked for again soonest, by looking."""
    kept: set[int] = set()
    hits = 0

    def next_use(one: int, after: int) -> float:
        return next(
            (at for at in range(after, len(references)) if references[at] == one), float("inf")
        )

    for at, one in enumerate(references):
        hits += one in kept
        kept.add(one)
        if len(kept) > capacity:
            kept.remove(max(kept, key=lambda held: next_use(held, at + 1)))
    return hits
