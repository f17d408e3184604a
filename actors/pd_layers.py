"""What engines say of layers that they have written, while they compute the next ones: which runs of which objects."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from penstock.actors.api import l1_saving, pd
from penstock.actors.api.errors import InvalidField
from penstock.actors.api.pd_wire import piece_number
from penstock.actors.api.types import KEY_BYTES, LeaseId, Memory
from penstock.actors.core.pd_session import RUN_DIGEST, Layout
from penstock.runtime.channel import Piece


@dataclass(frozen=True, slots=True)
class Lies:
    """Where a whole object lies. `hold` keeps its memory. The same place under the same lease is the same object."""

    lease: LeaseId
    offset: int
    view: memoryview = field(repr=False, compare=False)
    hold: object = field(repr=False, compare=False)


Announcement: TypeAlias = tuple[int, Sequence[int], Lies]
"""Place of an object, digests of its runs, and where it lies."""


class Announced:
    """From the leases of one session to the places of one push."""

    def __init__(self, send: pd.Send, layout: Layout, memory: Memory) -> None:
        self._send = send
        self._layout = layout
        self._memory = memory
        self._chunk_of: dict[bytes, int] = {}  # once it is asked for

    def runs(self, msg: pd.Layers, lent: l1_saving.Borrowed) -> Iterator[Announcement]:
        """Of those objects that the push is about. Raises InvalidField for runs that an object has not."""
        digests = [digest for (digest,) in RUN_DIGEST.iter_unpack(msg.digests)]
        count = len(digests) // len(msg.indices)
        ends = {lent.shape.slots[one.slot].runs for one in lent}
        if msg.first_run + count > min(ends):
            raise InvalidField(
                "pd_layers.digests",
                f"runs {msg.first_run} to {msg.first_run + count} of {min(ends)}",
            )
        for row, one in enumerate(lent):
            place = self._place_of(one.key, one.slot)
            if place is not None:
                view = self._memory.view(one.offset, one.logical_bytes)
                lies = Lies(msg.lease, one.offset, view, lent.hold)
                yield place, digests[row * count : (row + 1) * count], lies

    def _place_of(self, key: bytes, slot: int) -> int | None:
        """None: the push is not about that object."""
        keys, slots = self._send.keys, self._send.slots
        if not self._chunk_of:
            starts = range(0, len(keys), KEY_BYTES)
            self._chunk_of = {keys[at : at + KEY_BYTES]: at // KEY_BYTES for at in starts}
        chunk = self._chunk_of.get(key)
        if chunk is None or slot not in slots:
            return None
        return chunk * self._layout.width + slots.index(slot)


def run_pieces(
    place: int, slot: int, runs: Iterable[int], run_bytes: int, lies: Lies
) -> list[Piece]:
    """Runs of one object, each as a piece of its own."""
    pieces = []
    for run in runs:
        start = run * run_bytes
        payload = lies.view[start : start + run_bytes]
        pieces.append(Piece(piece_number(place, run), slot, start, payload, lies.hold))
    return pieces


def packed_indices(indices: Sequence[int]) -> bytes:
    """As u32, little-endian."""
    packed = array("I", indices)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
