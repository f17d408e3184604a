"""What is known of a store's objects: names, sizes, owners, and which goes first. The native one is made elsewhere.

    put -> PRESENT -> victims -> CHOSEN -> remove -> gone
              ^        put, touch, spare |
              '--------------------------'

A chosen object is present in every respect but one: it is not chosen again.
"""

from __future__ import annotations

from typing import Protocol


class Chosen(Protocol):
    """Objects that should go next, in order; keys packed, places packed u64."""

    @property
    def keys(self) -> bytes: ...
    @property
    def places(self) -> bytes: ...
    @property
    def bytes(self) -> int: ...


class Catalog(Protocol):
    """Keys are packed, sizes and places packed u64, tenants packed u32."""

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
