"""Memory that one peer may write to, where this side itself does the writing: landings by their tokens, and how far
each piece has come. Nothing in here waits."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from penstock.runtime.channel import Arrived, ChannelStatistics, LandingSlot
from penstock.runtime.grpc_frames import TOKEN_BYTES, Malformed, Part

BEGUN_MAX = (
    4096  # pieces of one landing of which a part has come: as many sends are not under way at once
)


class Landings:
    """Those of one connection."""

    def __init__(self, statistics: ChannelStatistics) -> None:
        self._open: dict[bytes, WrittenLanding] = {}
        self._statistics = statistics

    def open(self, slots: Sequence[LandingSlot], arrived: Arrived) -> WrittenLanding:
        landing = WrittenLanding(self, slots, arrived)
        self._open[landing.grant] = landing
        return landing

    def find(self, token: bytes) -> WrittenLanding | None:
        return self._open.get(token)

    def forget(self, token: bytes) -> None:
        self._open.pop(token, None)

    def close_all(self) -> None:
        for landing in list(self._open.values()):
            landing.close_now()

    def refuse(self, parts: Sequence[Part]) -> None:
        """Count the pieces that begin here and have no place."""
        self._statistics.pieces_refused += sum(not part.at for part in parts)

    def write(self, landing: WrittenLanding, parts: Sequence[Part]) -> None:
        """Raises Malformed."""
        numbers: list[int] = []
        for part in parts:
            if not landing.has_room(part):
                self.refuse((part,))
            elif landing.write(part):
                numbers.append(part.number)
                self._statistics.pieces_received += 1
                self._statistics.bytes_received += part.total
        if numbers:
            landing.arrived(numbers)


class WrittenLanding:
    """One landing. It is written only in steps of the loop: closed, it is written no more."""

    def __init__(self, landings: Landings, slots: Sequence[LandingSlot], arrived: Arrived) -> None:
        self.grant = secrets.token_bytes(TOKEN_BYTES)
        self.arrived = arrived
        self._landings = landings
        self._slots: Sequence[LandingSlot] = tuple(slots)
        self._begun: dict[int, Part] = {}  # the last part of each that came; len <= BEGUN_MAX

    async def close(self) -> None:
        self.close_now()

    def close_now(self) -> None:
        """Idempotent."""
        self._landings.forget(self.grant)
        self._slots = ()
        self._begun.clear()

    def has_room(self, part: Part) -> bool:
        """Whether the whole piece lies within its slot."""
        if part.slot >= len(self._slots):
            return False
        return part.offset + part.total <= self._slots[part.slot].memory.nbytes

    def write(self, part: Part) -> bool:
        """Whether its piece is whole now. Raises Malformed."""
        self._follow(part)
        begin, size = part.offset + part.at, len(part.payload)
        self._slots[part.slot].memory[begin : begin + size] = part.payload
        is_whole = part.at + size == part.total
        if is_whole:
            self._begun.pop(part.number, None)
        else:
            self._begun[part.number] = Part(
                part.number, part.slot, part.offset, part.total, part.at + size, memoryview(b"")
            )
        return is_whole

    def _follow(self, part: Part) -> None:
        """A part goes on where the one before it ended: what is called whole has been written whole."""
        before = self._begun.get(part.number)
        if before is None:
            if part.at:
                raise Malformed("a piece does not begin at its beginning")
            if len(part.payload) < part.total and len(self._begun) >= BEGUN_MAX:
                raise Malformed(f"{BEGUN_MAX} pieces are begun, and none of them ends")
        elif (before.slot, before.offset, before.total, before.at) != (
            *(part.slot, part.offset, part.total, part.at),
        ):
            raise Malformed("a part does not go on where the one before it ended")
