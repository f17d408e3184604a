"""What the store writer knows of each object it was to save, and who waits for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api.errors import TooManyInFlight
from penstock.actors.api.l1_saving import SLOT
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Fates

STEP_NAMES = 1024  # in one step of the loop


def name_of(key: bytes, slot: int) -> bytes:
    """One object: a chunk's key and a slot."""
    return key + SLOT.pack(slot)


class _Waiter:
    """Waits for each of `names`, and is over when `left` is 0."""

    def __init__(self) -> None:
        self.names: dict[
            bytes, None
        ] = {}  # it is among the waiters of these, unless they are settled
        self.left = 1  # objects that are still pending, and one until all of them are known
        self.is_over = anyio.Event()

    def settle(self) -> None:
        self.left -= 1
        if not self.left:
            self.is_over.set()


class Books:
    """Fates, and who waits for them: at most `waiters_max` at a time, for at most `waited_max` objects together."""

    def __init__(self, fates: Fates, *, waited_max: int, waiters_max: int) -> None:
        self._fates = fates
        self._waited_max = waited_max
        self._waiters_max = waiters_max
        self._asking = 0  # who wait, or are about to
        self._waited = 0
        self._waiters: dict[bytes, set[_Waiter]] = {}  # by name; each is pending

    def begin(self, name: bytes, tier: int) -> bool:
        """It is to be saved there. False: it is on its way there already."""
        return self._fates.begin(name, tier)

    def settle(self, name: bytes, tier: int, state: ObjectState) -> bool:
        """It came to this. True: it is pending nowhere any more."""
        is_over = self._fates.settle(name, tier, state)
        if is_over:
            for waiter in self._waiters.pop(name, ()):
                waiter.settle()
        return is_over

    def skip(self, name: bytes) -> None:
        self._fates.skip(name)

    def is_pending(self, name: bytes) -> bool:
        return self._fates.is_pending(name)

    def states(self, name: bytes) -> bytes | None:
        """One byte of ObjectState for each tier; None: nothing is remembered."""
        return self._fates.states(name)

    @contextmanager
    def waiter(self) -> Iterator[None]:
        """One who asks, and may wait, while it is entered. Raises TooManyInFlight."""
        if self._asking >= self._waiters_max:
            raise TooManyInFlight(
                f"{self._asking} wait for outcomes, the bound is writer.waiters_max,"
                f" {self._waiters_max}: ask again later, ask for more at a time, or raise it"
            )
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    async def wait(self, names: Sequence[bytes], *, within_s: float) -> None:
        """Until none of them is pending, at most so long. Raises TooManyInFlight."""
        waiter = _Waiter()
        try:
            for start in range(0, len(names), STEP_NAMES):
                self._wait_for(waiter, names[start : start + STEP_NAMES])
                await checkpoint()
            waiter.settle()
            with anyio.move_on_after(within_s):
                await waiter.is_over.wait()
            while waiter.names:
                self._forget(waiter, STEP_NAMES)
                await checkpoint()
        finally:
            self._forget(waiter, len(waiter.names))

    def _wait_for(self, waiter: _Waiter, names: Sequence[bytes]) -> None:
        """Those that are pending. Raises TooManyInFlight."""
        for name in names:
            if name in waiter.names or not self._fates.is_pending(name):
                continue
            if self._waited >= self._waited_max:
                raise TooManyInFlight(
                    f"{self._waited} objects are waited for, the bound is"
                    f" writer.waited_objects_max, {self._waited_max}: ask about fewer at a time,"
                    " or raise it"
                )
            self._waited += 1
            waiter.names[name] = None
            waiter.left += 1
            self._waiters.setdefault(name, set()).add(waiter)

    def _forget(self, waiter: _Waiter, count: int) -> None:
        """So many of what it waits for, or has waited for."""
        for _ in range(min(count, len(waiter.names))):
            name, _nothing = waiter.names.popitem()
            self._waited -= 1
            waiters = self._waiters.get(name)
            if waiters is None:
                continue
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[name]
