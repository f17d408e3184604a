"""What is known of a store's objects: names, sizes, owners, and which goes first. The interface, and its dumb twin.

    put -> PRESENT -> victims -> CHOSEN -> remove -> gone
              ^        put, touch, spare |
              '--------------------------'

A chosen object is present in every respect but one: it is not chosen again.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from penstock.actors.api.types import KEY_BYTES


class Chosen(Protocol):
    """Objects that should go next, in order; keys packed, places packed u64."""

    @property
    def keys(self) -> bytes: ...
    @property
    def places(self) -> bytes: ...
    @property
    def bytes(self) -> int: ...


class Catalog(Protocol):
    """As the native one; keys are packed, sizes and places packed u64, tenants packed u32."""

    def put(self, keys: bytes, *, sizes: bytes, places: bytes, tenants: bytes) -> None:
        """Insert, or replace and touch."""

    def has(self, keys: bytes) -> bytes:
        """One byte per key; touches nothing."""

    def touch(self, keys: bytes) -> int:
        """Used, in prompt order: a suffix goes before its prefix. How many are here."""

    def remove(self, keys: bytes) -> int:
        """How many were here."""

    def victims(self, *, bytes_wanted: int, count_max: int) -> Chosen: ...

    def spare(self, keys: bytes) -> int:
        """These were chosen, but stay."""

    def bytes_of(self, tenant: int) -> int: ...

    @property
    def used_bytes(self) -> int: ...

    @property
    def objects(self) -> int: ...


class TwinVictims(NamedTuple):
    keys: bytes
    places: bytes
    bytes: int


class _Item(NamedTuple):
    size: int
    place: int
    tenant: int


class LruCatalog:
    """The least recently used go first. For tests of the native one, and where that is missing."""

    def __init__(self) -> None:
        self._items: dict[bytes, _Item] = {}  # least recently used first
        self._chosen: set[bytes] = set()  # of _items
        self._used_bytes = 0
        self._bytes_of: Counter[int] = Counter()

    def put(self, keys: bytes, *, sizes: bytes, places: bytes, tenants: bytes) -> None:
        count = len(keys) // KEY_BYTES
        facts = (
            struct.unpack(f"<{count}Q", sizes),
            struct.unpack(f"<{count}Q", places),
            struct.unpack(f"<{count}I", tenants),
        )
        for key, size, place, tenant in zip(_split(keys), *facts, strict=True):
            self._drop(key)
            self._items[key] = _Item(size, place, tenant)
            self._used_bytes += size
            self._bytes_of[tenant] += size

    def has(self, keys: bytes) -> bytes:
        return bytes(key in self._items for key in _split(keys))

    def touch(self, keys: bytes) -> int:
        found = [key for key in _split(keys) if key in self._items]
        for key in reversed(found):
            self._items[key] = self._items.pop(key)
            self._chosen.discard(key)
        return len(found)

    def remove(self, keys: bytes) -> int:
        return sum([self._drop(key) for key in _split(keys)])

    def victims(self, *, bytes_wanted: int, count_max: int) -> TwinVictims:
        chosen: list[bytes] = []
        freed = 0
        for key, item in self._items.items():
            if freed >= bytes_wanted or len(chosen) >= count_max:
                break
            if key not in self._chosen:
                chosen.append(key)
                freed += item.size
        self._chosen.update(chosen)
        places = struct.pack(f"<{len(chosen)}Q", *(self._items[key].place for key in chosen))
        return TwinVictims(b"".join(chosen), places, freed)

    def spare(self, keys: bytes) -> int:
        spared = [key for key in _split(keys) if key in self._chosen]
        self._chosen.difference_update(spared)
        return len(spared)

    def bytes_of(self, tenant: int) -> int:
        return self._bytes_of[tenant]

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def objects(self) -> int:
        return len(self._items)

    def validate(self) -> None:
        """Raises AssertionError if an invariant does not hold."""
        assert self._used_bytes == sum(item.size for item in self._items.values())
        assert self._used_bytes == sum(self._bytes_of.values())
        assert self._chosen <= self._items.keys()

    def _drop(self, key: bytes) -> bool:
        item = self._items.pop(key, None)
        self._chosen.discard(key)
        if item is None:
            return False
        self._used_bytes -= item.size
        self._bytes_of[item.tenant] -= item.size
        if not self._bytes_of[item.tenant]:
            del self._bytes_of[item.tenant]
        return True


def _split(keys: bytes) -> Sequence[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
