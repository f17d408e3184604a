"""How a push gets memory at its receiver: all that it needs, or none of it.

borrow what L1 has -> turn at the budget -> reserve all of the rest
"""

from __future__ import annotations

import asyncio

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1_loading, l1_saving
from penstock.actors.api.pd_wire import Offer
from penstock.actors.api.types import KEY_BYTES, Pool, Shape
from penstock.actors.core.pd_session import Layout
from penstock.actors.load_targets import whole_pages
from penstock.actors.pd_memory import (
    GRANTED,
    IN_FLIGHT,
    Claim,
    PartMemory,
    empty_part,
    name_of,
    part_memory,
    part_ranges,
)
from penstock.actors.pd_surroundings import ReceiverAround, Waiter
from penstock.runtime.hazard import hazard

ROOM_S = (
    0.1  # L1 does not say when the last reader of what was let go of has left: looked at so often
)
BORROWED_CHUNKS = 256  # in one step of L1


class Admission:
    """Of one push. What it holds for it lives until `let_go`."""

    def __init__(
        self, offer: Offer, layout: Layout, shape: Shape, waiter: Waiter, around: ReceiverAround
    ) -> None:
        self.claim = Claim(lambda size_bytes: around.give_back(offer.transfer, size_bytes))
        self._offer = offer
        self._layout = layout
        self._shape = shape
        self._waiter = waiter
        self._around = around
        # Arena bytes of an object of each slot of the offer.
        self._sizes = [whole_pages(shape.slots[slot].bytes) for slot in offer.slots]
        self._turn = asyncio.Event()
        self._joined: list[PartMemory] = []  # of other pushes that bring the same
        self._borrowed: list[object] = []  # what L1 had

    def admitted(self, size_bytes: int) -> None:
        """It is its turn at the budget."""
        self.claim.bytes += size_bytes
        self._turn.set()

    @property
    def has_all_landed(self) -> bool:
        """Of what other pushes bring."""
        return all(one.is_landed for one in self._joined)

    def forget(self, memory: PartMemory) -> None:
        """What another push was to bring will not come."""
        self._joined = [one for one in self._joined if one is not memory]

    def give_up(self, parts: list[PartMemory]) -> None:
        """These were reserved, and will not be granted: whoever waits for what they were to bring hears of it."""
        for memory in parts:
            if not memory.is_landed:
                self._around.lost(memory)
        parts.clear()

    def let_go(self) -> None:
        """Nobody reads it by this push."""
        self._joined.clear()
        self._borrowed.clear()

    async def run(self) -> list[PartMemory]:
        """All parts of the offer. Waits for as long as it takes: to be given up. Raises OverBudget, and what L1
        refuses."""
        needs = await self._borrow()
        columns = enumerate(self._sizes)
        size = sum(one * needs[at :: self._layout.width].count(1) for at, one in columns)
        if size:
            self._around.ask_budget(self._offer, size)
            self._around.pump()
            await self._turn.wait()
        await hazard("pd.after_turn")
        while (parts := await self._try_reserve(needs)) is None:
            with move_on_after(ROOM_S):
                await self._around.room.wait()
        return parts

    async def _borrow(self) -> bytes:
        """Hold what L1 has. One byte for each object of the offer: 1, it has not got it."""
        slots, keys = self._offer.slots, self._offer.keys
        row = bytes(slot in slots for slot in range(len(self._shape.slots)))
        needs = bytearray(b"\1" * self._layout.objects)
        column = {slot: at for at, slot in enumerate(slots)}
        step = BORROWED_CHUNKS * KEY_BYTES
        for start in range(0, len(keys), step):
            part = keys[start : start + step]
            starts = range(0, len(part), KEY_BYTES)
            place = {
                part[at : at + KEY_BYTES]: (start + at) // KEY_BYTES * len(slots) for at in starts
            }
            borrow = l1_saving.Borrow(part, self._shape.geometry, row * len(starts))
            for lent in await self._around.l1.ask(borrow, within=self._around.ask_s):
                self._borrowed.append(lent.hold)
                for one in lent:
                    needs[place[one.key] + column[one.slot]] = 0
            await checkpoint()
        return bytes(needs)

    async def _try_reserve(self, needs: bytes) -> list[PartMemory] | None:
        """None: there is no room for all of it."""
        parts: list[PartMemory] = []
        is_all = False
        try:
            is_all = await self._reserve_all(needs, parts)
        finally:
            if not is_all:
                self.give_up(parts)
        return parts if is_all else None

    async def _reserve_all(self, needs: bytes, parts: list[PartMemory]) -> bool:
        """Add all parts to `parts`. False: there was no room for one."""
        limits, width = self._around.limits, self._layout.width
        ranges = part_ranges(
            self._layout,
            self._sizes,
            needs,
            bytes_max=limits.part,
            objects_max=limits.part_objects,
        )
        for chunks in ranges:
            if not any(needs[chunks.start * width : chunks.stop * width]):
                parts.append(empty_part(self._layout, chunks))
                await checkpoint()
                continue
            memory = await self._reserve(chunks)
            if memory is None:
                return False
            parts.append(memory)
        return True

    async def _reserve(self, chunks: range) -> PartMemory | None:
        """One part. None: not all of it."""
        keys = self._offer.keys
        first, last = chunks.start * KEY_BYTES, chunks.stop * KEY_BYTES
        reserve = l1_loading.ReserveLoad(
            keys[first:last],
            keys[max(0, first - KEY_BYTES) : first],
            self._shape.geometry,
            self._offer.slots,
            b"",
            Pool.PD,
        )
        async with self._around.reserving:
            lease = await self._around.l1.ask(reserve, within=self._around.ask_s)
            await hazard("pd.after_reserve")
            if any(answer > IN_FLIGHT for answer in lease.answers):
                return None
            memory = part_memory(self._shape, self._layout, chunks, lease, self._around.memory)
            if not self.claim.take(memory):
                return None  # L1 had some of it, and has lost it since
            self._put_on_shelf(memory, chunks, lease.answers)
        return memory

    def _put_on_shelf(self, memory: PartMemory, chunks: range, answers: bytes) -> None:
        shelf, first = self._around.shelf, chunks.start * self._layout.width
        for index, answer in enumerate(answers):
            name = name_of(self._offer.keys, self._layout, first + index)
            if answer == GRANTED:
                shelf[name] = memory
            elif answer == IN_FLIGHT and (other := shelf.get(name)) is not None:
                if all(one is not other for one in self._joined):
                    self._joined.append(other)
                self._around.wait_for(other, self._waiter)
                if other.is_landed:
                    self._waiter.look_again()
