"""Under which leases the store writer reads what it saves, and when L1 may evict it all the same.

    lent -> its saves are in their time: neither it nor what it rests on is evicted
         -> all are over: given back, with the last reference to the lease's handle
         -> all are over, and something may still be read, by a disk that hangs: let go
         -> somebody needs room, and nothing else may go:                        let go
         -> it is not the first try:                                             let go at once

What is let go may be evicted. Its memory comes back only when nothing reads it any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.actors.api import l1, l1_saving
from penstock.actors.api.types import LeaseId
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref


@dataclass(slots=True)
class _Loan:
    saves: int = 0  # in their time
    is_held: bool = False  # one that is over may still be read


class Loans:
    """Belongs to the store writer."""

    def __init__(self, manager: Ref[l1.L1Manager], *, ask_s: float) -> None:
        self._l1 = manager
        self._ask_s = ask_s
        self._loans: dict[LeaseId, _Loan] = {}  # none is let go; bounded by saves under way
        self._log = Log("store_writer")

    def begin(self, lease: LeaseId) -> None:
        """One more save reads it."""
        self._loans.setdefault(lease, _Loan()).saves += 1

    async def end(self, lease: LeaseId, *, is_held: bool) -> None:
        """One save is over; `is_held`: its memory may still be read."""
        loan = self._loans.get(lease)
        if loan is None:
            return
        loan.saves -= 1
        loan.is_held |= is_held
        if not loan.saves:
            del self._loans[lease]
            if loan.is_held:
                await self._let_go(lease)

    async def let_go_of(self, lease: LeaseId) -> None:
        """Its saves keep L1 from nothing."""
        if self._loans.pop(lease, None) is not None:
            await self._let_go(lease)

    async def let_go(self) -> int:
        """All of them. Answers how many there were."""
        leases = [*self._loans]
        self._loans.clear()
        for lease in leases:
            await self._let_go(lease)
        return len(leases)

    async def _let_go(self, lease: LeaseId) -> None:
        try:
            await self._l1.ask(l1_saving.LetGo(lease), within=self._ask_s)
        except PenstockError as refusal:
            self._log.warning_once("not_let_go", str(refusal), reason=str(refusal))
