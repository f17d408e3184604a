"""What the store writer knows of each object it was to save, and who waits for that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anyio

from penstock.actors.api.errors import TooManyInFlight
from penstock.actors.api.l1_saving import SLOT
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Fates


def name_of(key: bytes, slot: int) -> bytes:
    """One object: a chunk's key and a slot."""
    return key + SLOT.pack(slot)


class _Waiter:
    def __init__(self, left: int) -> None:
        self.left = left  # objects that are still pending
        self.is_over = anyio.Event()


class Books:
    """Fates, and who waits for them. At most `waited_max` objects are waited for at a time, by all who wait."""

    def __init__(self, fates: Fates, *, waited_max: int) -> None:
        self._fates = fates
        self._waited_max = waited_max
        self._waited = 0
        self._waiters: dict[bytes, list[_Waiter]] = {}  # by name; each is pending

    def begin(self, name: bytes, tier: int) -> bool:
        """It is to be saved there. False: it is on its way there already."""
        return self._fates.begin(name, tier)

    def settle(self, name: bytes, tier: int, state: ObjectState) -> bool:
        """It came to this. True: it is pending nowhere any more."""
        is_over = self._fates.settle(name, tier, state)
        if is_over:
            for waiter in self._waiters.pop(name, ()):
                waiter.left -= 1
                if not waiter.left:
                    waiter.is_over.set()
        return is_over

    def skip(self, name: bytes) -> None:
        self._fates.skip(name)

    def is_pending(self, name: bytes) -> bool:
        return self._fates.is_pending(name)

    def knows(self, name: bytes) -> bool:
        return self._fates.states(name) is not None

    def states(self, names: Iterable[bytes], *, otherwise: Sequence[bytes]) -> bytes:
        """One byte of ObjectState per name and tier; `otherwise` of what is not remembered, for each name in turn."""
        pairs = zip(names, otherwise, strict=True)
        return b"".join(self._fates.states(name) or unknown for name, unknown in pairs)

    async def wait(self, names: Sequence[bytes], *, within_s: float) -> None:
        """Until none of them is pending, at most so long. Raises TooManyInFlight."""
        pending = [name for name in dict.fromkeys(names) if self._fates.is_pending(name)]
        if not pending:
            return
        if self._waited + len(pending) > self._waited_max:
            raise TooManyInFlight(
                f"{self._waited} objects are waited for, the bound is writer.waited_objects_max,"
                f" {self._waited_max}: ask about fewer at a time, or raise it"
            )
        waiter = _Waiter(len(pending))
        self._waited += len(pending)
        for name in pending:
            self._waiters.setdefault(name, []).append(waiter)
        try:
            with anyio.move_on_after(within_s):
                await waiter.is_over.wait()
        finally:
            self._waited -= len(pending)
            for name in pending:
                self._forget(name, waiter)

    def _forget(self, name: bytes, waiter: _Waiter) -> None:
        waiters = self._waiters.get(name)
        if waiters is None:
            return
        waiters[:] = [one for one in waiters if one is not waiter]
        if not waiters:
            del self._waiters[name]
