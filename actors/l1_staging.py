"""L1 as a bounce buffer: what engines write there is on its way to the stores, and nobody reads it.

    written -> resident -> saved, or finally failed to be -> dropped
    loaded  -> read by the tickets that wait for it       -> dropped with the last of them

What is resident may be gone the next moment, so no ticket counts it; and it has a bound of its own, so that saves that
do not come on leave room to loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from penstock import _native
from penstock.actors.api import l1
from penstock.actors.api.types import KEY_BYTES, Extents
from penstock.actors.l1_geometries import Geometries
from penstock.actors.load_targets import whole_pages

_HIT = cast("Callable[[tuple[int, int]], _native.Hit]", _native.Hit)  # a struct sequence
_NO_EXTENT = bytes(24)  # offset, bytes, digest


class StagedTable(_native.Table):
    """A table whose tickets read only what was loaded for them."""

    _geometries = 0

    def add_geometry(self, groups: Sequence[_native.Group]) -> int:
        number = super().add_geometry(groups)
        self._geometries = max(self._geometries, number + 1)
        return number

    def presence(self, keys: bytes, *, geometry: int) -> bytes:
        """What is resident is not there."""
        return super().presence(keys, geometry=geometry).translate(_NOT_RESIDENT)

    def peek(self, keys: bytes, *, geometry: int) -> int:
        return 0

    def promised(self, keys: bytes, *, geometry: int) -> int:
        return 0

    def lookup(
        self,
        keys: bytes,
        *,
        geometry: int,
        ticket: bytes,
        instance: int,
        readers: int,
        now: float,
        expires: float,
    ) -> _native.Hit:
        """Nothing is hit without a load."""
        return _HIT((0, 0))

    def follow(self, ticket: bytes, keys: bytes, *, now: float) -> _native.Hit:
        """What it has. What others write is promised to nobody. Raises TicketUnknown."""
        if not self.has_ticket(ticket):
            raise _native.TicketUnknown("it is over")
        hit = self.chunks_of(ticket)
        return _HIT((hit, hit))

    def step(self, ticket: bytes, keys: bytes, *, now: float) -> _native.Hit:
        return self.follow(ticket, keys, now=now)

    def extend(self, ticket: bytes, keys: bytes, *, now: float) -> int:
        """As far as nothing is resident."""
        has = self.chunks_of(ticket)
        more = keys[has * KEY_BYTES :]
        loaded = has + self._not_resident(more) if more else has
        if not loaded:
            return self.follow(ticket, keys, now=now).hit
        return super().extend(ticket, keys[: loaded * KEY_BYTES], now=now)

    def _not_resident(self, keys: bytes) -> int:
        """How many chunks from the first have no resident object. Few geometries are in use at a time."""
        chunks = len(keys) // KEY_BYTES
        for geometry in range(self._geometries):
            presence = super().presence(keys, geometry=geometry)
            if (first := presence.find(_native.Presence.RESIDENT)) >= 0:
                chunks = min(chunks, first * len(keys) // KEY_BYTES // len(presence))
        return chunks


class WriteBound:
    """Of what engines reserve; of a cache, the arena alone."""

    def reserve(
        self,
        msg: l1.Reserve,
        geometries: Geometries,
        reserve: Callable[[l1.Reserve], l1.WriteLease],
    ) -> l1.WriteLease:
        """By `reserve`, as far as it goes."""
        return reserve(msg)


UNBOUNDED = WriteBound()


class StagingBound(WriteBound):
    """How much of the arena all but what was loaded may take: what is written, held by saves, or being loaded."""

    def __init__(self, table: _native.Table, *, bytes_max: int) -> None:
        self._table = table
        self._bytes_max = bytes_max

    def reserve(
        self,
        msg: l1.Reserve,
        geometries: Geometries,
        reserve: Callable[[l1.Reserve], l1.WriteLease],
    ) -> l1.WriteLease:
        """As many chunks as fit the bound by `reserve`; the others have NO_ROOM."""
        shape = geometries.shape(msg.geometry)
        numbers = self._table.statistics()
        taken_bytes = numbers.bytes_total - numbers.bytes_free - numbers.bytes_loaded
        chunk_bytes = sum(whole_pages(shape.slots[slot].bytes) for slot in msg.slots)
        chunks = len(msg.keys) // KEY_BYTES
        fit = max(0, self._bytes_max - taken_bytes) // max(1, chunk_bytes)
        if fit >= chunks:
            return reserve(msg)
        lease = reserve(replace(msg, keys=msg.keys[: fit * KEY_BYTES]))
        refused = (chunks - fit) * len(msg.slots)
        return replace(
            lease,
            answers=lease.answers + bytes([_native.Answer.NO_ROOM]) * refused,
            extents=Extents(lease.extents.packed + _NO_EXTENT * refused),
            bytes_missing=lease.bytes_missing + (chunks - fit) * chunk_bytes,
        )


_NOT_RESIDENT = bytes(
    _native.Presence.ABSENT if one == _native.Presence.RESIDENT else one for one in range(256)
)
