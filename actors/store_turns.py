"""Waiting for one's turn at a store: for its places (`core/admission.py` decides), and for a key others change."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from penstock.actors.core.admission import Admission, AdmissionLimits, Entry, Phase, Work


class User:
    """Kept alive by whoever may still touch the memory of a batch."""

    __slots__ = ("__weakref__",)


class Place:
    """Of one batch. Its bytes are taken until its user has died: a store that hangs may write them at any time."""

    def __init__(self) -> None:
        self._user: weakref.ref[User] | None = None

    def user(self) -> User:
        """To be kept alive together with the memory of the batch. Asked for once."""
        assert self._user is None
        user = User()
        self._user = weakref.ref(user)
        return user

    def is_used(self) -> bool:
        return self._user is not None and self._user() is not None

    def when_unused(self, told: Callable[[], object]) -> None:
        """`told` is called by the loop, once nobody uses the memory any more, on whatever thread that comes to be."""
        user = None if self._user is None else self._user()
        assert user is not None
        weakref.finalize(user, _tell, asyncio.get_running_loop(), told).atexit = False


class Taken:
    """The place of a load that is still to come. It is given back with the last reference to this, unless that load
    has taken it over."""

    __slots__ = ("__weakref__", "_entry", "_lost", "_place")

    def __init__(self, entry: Entry, end: Callable[[Entry, Place], object]) -> None:
        self._entry, self._place = entry, Place()
        given_back = partial(end, entry, self._place)
        self._lost = weakref.finalize(self, _tell, asyncio.get_running_loop(), given_back)
        self._lost.atexit = False

    def user(self) -> User:
        """As of the place."""
        return self._place.user()

    def take_over(self) -> tuple[Entry, Place]:
        """Once."""
        self._lost.detach()
        return self._entry, self._place


def _tell(loop: asyncio.AbstractEventLoop, told: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(told)


class Gate:
    """Places at a store."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._admission = Admission(limits)
        self._waiting: dict[Entry, asyncio.Event] = {}

    async def enter(self, work: Work, size_bytes: int, place: int = 0) -> Entry:
        """Wait for a place, to be given back by `leave`. `place`: of the medium, of a save. Raises StoreBusy."""
        entry = self._admission.enter(work, size_bytes, place)
        if entry.phase is Phase.RUNNING:
            return entry
        event = self._waiting[entry] = asyncio.Event()
        has_place = False
        try:
            await event.wait()
            has_place = True
        finally:
            del self._waiting[entry]
            if not has_place:
                self.leave(entry)
        return entry

    def leave(self, entry: Entry) -> None:
        self._wake(self._admission.leave(entry))

    def place(self, work: Work, size_bytes: int, taken: Taken | None = None) -> Placing:
        """A place for as long as the body runs, and its bytes for as long as its user lives: the one that was taken
        before, if there is one. Raises StoreBusy."""
        return Placing(self, work, size_bytes, taken)

    def take_now(self, size_bytes: int) -> Taken | None:
        """For a load that comes next; None: there is no place at once."""
        if not self.is_open(size_bytes):
            return None
        return Taken(self._admission.enter(Work.LOAD, size_bytes), self.end)

    def end(self, entry: Entry, place: Place) -> None:
        """The body is over: as `leave`, once nobody uses the memory."""
        if place.is_used():
            self._wake(self._admission.give_up(entry))
            place.when_unused(lambda: self.leave(entry))
        else:
            self.leave(entry)

    def is_open(self, size_bytes: int) -> bool:
        """Whether a load of so many bytes would have a place at once."""
        return self._admission.is_open(size_bytes)

    def _wake(self, started: Iterable[Entry]) -> None:
        for one in started:
            self._waiting[one].set()

    def waiting(self, work: Work) -> int:
        return self._admission.waiting(work)

    def running(self, work: Work) -> int:
        return self._admission.running(work)

    def load_bytes(self) -> int:
        return self._admission.load_bytes()


class Placing:
    """Entered by every batch: a class, as a generator costs several times as much."""

    __slots__ = ("_entry", "_gate", "_of", "_place", "_taken")

    def __init__(self, gate: Gate, work: Work, size_bytes: int, taken: Taken | None) -> None:
        self._gate, self._of, self._taken = gate, (work, size_bytes), taken

    async def __aenter__(self) -> Place:
        if self._taken is None:
            self._entry, self._place = await self._gate.enter(*self._of), Place()
        else:
            self._entry, self._place = self._taken.take_over()
        return self._place

    async def __aexit__(self, *_: object) -> None:
        self._gate.end(self._entry, self._place)


class ChangeTurns:
    """Changes of one key come one after the other, so that the books tell what is on the medium."""

    def __init__(self) -> None:
        self.taken: set[bytes] = set()
        self._stuck: set[bytes] = set()  # of these, for who knows how long
        self._watched: list[set[bytes]] = []  # of those who want to know what has been taken
        self._freed = asyncio.Event()  # replaced whenever it is set

    async def take(self, keys: Collection[bytes]) -> None:
        """Wait until nobody changes any of `keys`, then be the one who does; to be given back by `free`."""
        while not self.taken.isdisjoint(keys):
            await self._freed.wait()
        self._take(keys)

    async def take_unstuck(self, keys: Collection[bytes]) -> set[bytes]:
        """The same, of those of `keys` that are not stuck by then. Returns them; there may be none."""
        while not self.taken.isdisjoint(left := {*keys} - self._stuck):
            await self._freed.wait()
        self._take(left)
        return left

    def stick(self, keys: Collection[bytes]) -> None:
        """These, which are taken, may stay so for long: nobody who can do without them is to wait."""
        assert self.taken.issuperset(keys)
        self._stuck.update(keys)
        self._wake()

    def _take(self, keys: Collection[bytes]) -> None:
        self.taken.update(keys)
        for seen in self._watched:
            seen.update(keys)

    @contextmanager
    def watched(self) -> Iterator[set[bytes]]:
        """All keys that are changed at any time while the body runs."""
        seen = set(self.taken)
        self._watched.append(seen)
        try:
            yield seen
        finally:
            at = next(at for at, one in enumerate(self._watched) if one is seen)
            del self._watched[at]

    def free(self, keys: Collection[bytes]) -> None:
        assert self.taken.issuperset(keys)
        self.taken.difference_update(keys)
        self._stuck.difference_update(keys)
        self._wake()

    def _wake(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()
