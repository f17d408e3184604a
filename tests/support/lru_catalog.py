"""The dumb twin of the native catalog: the least recently used go first."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from penstock.actors.api.types import KEY_BYTES


class TwinVictims(NamedTuple):
    keys: bytes
    places: bytes
    bytes: int


class _Item(NamedTuple):
    size: int
    place: int
    tenant: int


class LruCatalog:
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
