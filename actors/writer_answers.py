"""What became of a prompt's objects: what the store writer remembers, corrected by what the stores say now.

pending   -> waited for, as long as there is time
then each store is asked: what it has is SAVED, whatever is remembered of it
                          what it has not, and is remembered as SAVED, has left it since: UNKNOWN
                          of one that does not answer in time the memory counts
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_saving, store, writer
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.api.writer import ObjectState
from penstock.actors.object_keys import object_keys_in_steps
from penstock.actors.writer_books import Books, name_of
from penstock.runtime.deadline import time_left
from penstock.runtime.errors import PenstockError
from penstock.runtime.ref import Ref, gather_asks

STEP_OBJECTS = 1024  # in one step of the loop
ANSWER_SHARE = 0.1  # of an asker's time at most: to ask the stores, and to answer


class Answers:
    """Belongs to the store writer. `wait_taken`: all that was committed is in the books then, if L1 has told."""

    def __init__(
        self,
        stores: Sequence[tuple[str, Ref[store.StoreActor]]],
        *,
        manager: Ref[l1.L1Manager],
        books: Books,
        wait_taken: Callable[[], Awaitable[None]],
        locate_s: float,
        ask_s: float,
    ) -> None:
        self._names = tuple(name for name, _ in stores)
        self._stores = [ref for _, ref in stores]
        self._l1 = manager
        self._books = books
        self._wait_taken = wait_taken
        self._locate_s = locate_s
        self._ask_s = ask_s

    async def wait_stored(self, msg: writer.WaitStored) -> writer.Stored:
        """Raises TooManyInFlight, and PenstockError if L1 does not answer."""
        with self._books.waiter():
            with move_on_after(min(self._ask_s, self._spare_s() / 2)):  # else it is unknown
                await self._wait_taken()
            shape = await self._l1.ask(l1_saving.TellShape(msg.geometry), within=self._ask_s)
            slots = msg.slots or tuple(range(len(shape.slots)))
            names = await _names_in_steps(msg.keys, slots)
            await self._books.wait(names, within_s=min(msg.within_s, self._spare_s()))
            keys = await object_keys_in_steps(shape, msg.keys, slots)
            states = await self._states(names, await self._locate(keys))
        return writer.Stored(self._names, states)

    def _spare_s(self) -> float:
        """How long one may wait and still answer in time. A time that is as long as the deadline is no mistake: then
        what is pending is told to be."""
        left_s = time_left()
        return left_s - min(2 * self._locate_s, ANSWER_SHARE * left_s)

    async def _locate(self, keys: store.Keys) -> list[bytes | None]:
        """What each store has. None: it cannot say."""
        if not len(keys):
            return [b""] * len(self._stores)
        within_s = min(self._locate_s, time_left() / 2)
        ask = store.Locate(keys, store.Purpose.OUTCOME)
        answers = await gather_asks(ref.ask(ask, within=within_s) for ref in self._stores)
        return [None if isinstance(one, PenstockError) else bytes(one) for one in answers]

    async def _states(self, names: Sequence[bytes], located: Sequence[bytes | None]) -> bytes:
        """One byte of ObjectState for each name and store."""
        width = len(located)
        unknown = bytes([ObjectState.UNKNOWN]) * width
        states = bytearray()
        for start in range(0, len(names), STEP_OBJECTS):
            step = names[start : start + STEP_OBJECTS]
            part = bytearray().join([self._books.states(name) or unknown for name in step])
            for place, found in enumerate(located):
                if found is not None:
                    column = zip(part[place::width], found[start : start + len(step)], strict=True)
                    part[place::width] = bytes([_told(*one) for one in column])
            states += part
            await checkpoint()
        return bytes(states)


def _told(remembered: int, is_there: int) -> int:
    if is_there:
        return ObjectState.SAVED
    return ObjectState.UNKNOWN if remembered == ObjectState.SAVED else remembered


async def _names_in_steps(keys: bytes, slots: Sequence[int]) -> list[bytes]:
    """Of these slots of every chunk, chunk-major; others get their turn between its steps."""
    names: list[bytes] = []
    step_bytes = max(1, STEP_OBJECTS // len(slots)) * KEY_BYTES
    for start in range(0, len(keys), step_bytes):
        part = range(start, min(start + step_bytes, len(keys)), KEY_BYTES)
        names += [name_of(keys[at : at + KEY_BYTES], slot) for at in part for slot in slots]
        await checkpoint()
    return names
