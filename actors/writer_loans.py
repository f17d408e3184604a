"""Under which leases the store writer reads what it saves, and when L1 may evict it all the same.

    lent -> its saves are in their time: neither it nor what it rests on is evicted
         -> all are over: given back, with the last reference to the lease's handle
         -> all are over, and something may still be read, by a disk that hangs: let go
         -> the writer crashed: its saves are over, and something may still be read: let go
         -> somebody needs room, and nothing else may go:                        let go
         -> it is not the first try:                                             let go at once

What is let go may be evicted. Its memory comes back only when nothing reads it any more, and is counted until then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_saving
from penstock.actors.api.types import LeaseId
from penstock.actors.held import when_dropped
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref


class Borrower(NamedTuple):
    """A place of a store's medium."""

    store: str
    place: int


@dataclass(slots=True)
class _Loan:
    tenants: set[bytes] = field(default_factory=set)  # digests
    saves: int = 0  # in their time
    is_held: bool = False  # one that is over may still be read


class Loans:
    """Belongs to the store writer, and is made once for all its lives: a store that hangs reads what a crashed one has
    lent, too."""

    def __init__(self, manager: Ref[l1.L1Manager], *, ask_s: float) -> None:
        self._l1 = manager
        self._ask_s = ask_s
        self._loans: dict[LeaseId, _Loan] = {}  # under way, or refused by L1; none is let go
        self._lent_bytes = Counter[Borrower]()  # of the arena; it is or may still be read
        self._beside_bytes = Counter[Borrower]()  # others', held by what was lent with them
        self._came_back: dict[Borrower, Callable[[], None]] = {}  # of the present life
        self._log = Log("store_writer")

    def begin_life(self) -> list[LeaseId]:
        """The saves of the life before are over. What it lent, and has not let go: to be let go now."""
        for loan in self._loans.values():
            loan.saves = 0
        return [*self._loans]

    # Memory, by borrower.

    def lent_bytes(self, borrower: Borrower) -> int:
        """What is being saved to it."""
        return self._lent_bytes[borrower]

    def held_bytes(self, borrower: Borrower) -> int:
        """Those, and what was lent to others together with them: these tell of it as theirs."""
        return self._lent_bytes[borrower] + self._beside_bytes[borrower]

    def watch(self, borrower: Borrower, came_back: Callable[[], None]) -> None:
        """`came_back` hears, in the place of a former life, when some of what it was lent came back."""
        self._came_back[borrower] = came_back

    def lend(self, borrower: Borrower, hold: object, arena_bytes: int) -> None:
        """So many, until the last reference to `hold` is gone."""
        self._add(self._lent_bytes, borrower, hold, arena_bytes)

    def hold_beside(self, borrower: Borrower, hold: object, arena_bytes: int) -> None:
        """The same of what is saved by others, and held as long as what is lent to this one."""
        self._add(self._beside_bytes, borrower, hold, arena_bytes)

    def _add(
        self, sums: Counter[Borrower], borrower: Borrower, hold: object, arena_bytes: int
    ) -> None:
        sums[borrower] += arena_bytes
        when_dropped(hold, partial(self._dropped, sums, borrower, arena_bytes))

    def _dropped(self, sums: Counter[Borrower], borrower: Borrower, arena_bytes: int) -> None:
        sums[borrower] -= arena_bytes
        self._came_back[borrower]()

    # Leases.

    def begin(self, lease: LeaseId, tenants: Iterable[bytes]) -> None:
        """One more save reads it; it holds objects of these tenants."""
        loan = self._loans.setdefault(lease, _Loan())
        loan.tenants.update(tenants)
        loan.saves += 1

    async def end(self, lease: LeaseId, *, is_held: bool) -> None:
        """One save is over; `is_held`: its memory may still be read."""
        loan = self._loans.get(lease)
        if loan is None:
            return
        loan.saves -= 1
        loan.is_held |= is_held
        if not loan.saves and (not loan.is_held or await self._let_go(lease)):
            self._loans.pop(lease, None)

    async def let_go(self, tenant: bytes | None = None) -> int:
        """All of them, or all that hold any of a tenant's, whole. Answers how many there were. Given up half way, or
        refused by L1, the rest are still to go."""
        every = self._loans.items()
        chosen = [key for key, loan in every if tenant is None or tenant in loan.tenants]
        return await self.let_go_of_these(chosen)

    async def let_go_of_these(self, leases: Sequence[LeaseId]) -> int:
        """Their saves keep L1 from nothing. Answers how many of them there were."""
        count = 0
        for lease in leases:
            if lease in self._loans and await self._let_go(lease):
                count += self._loans.pop(lease, None) is not None
            await checkpoint()
        return count

    async def _let_go(self, lease: LeaseId) -> bool:
        """Whether L1 has heard of it. One that has ended meanwhile is none to L1, which is as good."""
        try:
            await self._l1.ask(l1_saving.LetGo(lease), within=self._ask_s)
        except PenstockError as refusal:
            self._log.warning_once("not_let_go", str(refusal), reason=str(refusal))
            return False
        return True
