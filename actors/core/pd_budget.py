"""The receive budget: which pushes may be taken in now. Pure; bytes are those of the arena, in whole pages.

    ask -> waiting --admit--> admitted, with all that it needs --give_back*--> gone
              '----withdraw---------------------------------------------------> gone

Whole requests are admitted, one after the other: who is first in line is waited for, so that no two are half there and
wait for each other's memory. First in line is who has the highest priority, and waiting raises that: nobody waits for
ever behind the more important. A request of an engine that holds all of its blocks may come in windows, of whatever
room there is: what was received of it goes on its own, without waiting for anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Name = TypeVar("Name")


class OverBudget(Exception):
    """Yours: the whole budget would be too small for it."""


@dataclass(slots=True)
class Claim:
    """What one push wants, and has."""

    wanted_bytes: int  # still to be admitted
    taken_bytes: int
    window_bytes: int  # the least that is admitted at a time; 0: all of it
    priority: int
    asked_at: float
    has_begun: bool = False  # something was admitted

    @property
    def next_bytes(self) -> int:
        """What has to be free for the next admission."""
        if not self.window_bytes:
            return self.wanted_bytes
        return min(self.window_bytes, self.wanted_bytes)


@dataclass(frozen=True, slots=True)
class Admitted(Generic[Name]):
    name: Name
    bytes: int


class ReceiveBudget(Generic[Name]):
    """Book of one budget. `ageing_s`: a wait of so long counts as much as one priority more."""

    def __init__(self, bytes_max: int, *, ageing_s: float) -> None:
        self.bytes_max = bytes_max
        self.taken_bytes = 0  # <= bytes_max
        self._ageing_s = ageing_s
        self._claims: dict[Name, Claim] = {}  # in the order in which they asked

    @property
    def free_bytes(self) -> int:
        return self.bytes_max - self.taken_bytes

    @property
    def waiting(self) -> int:
        """How many wait for more than they have."""
        return sum(1 for claim in self._claims.values() if claim.wanted_bytes)

    def __contains__(self, name: Name) -> bool:
        """Whether it has asked, and has something or waits for it."""
        return name in self._claims

    def ask(
        self, name: Name, size_bytes: int, *, priority: int, now: float, window_bytes: int = 0
    ) -> None:
        """Stand in line. `window_bytes`: it may come in windows of at least so much. Raises OverBudget."""
        if name in self._claims:
            raise ValueError(f"{name!r} has asked already")
        least = min(size_bytes, window_bytes) if window_bytes else size_bytes
        if least > self.bytes_max:
            raise OverBudget(f"{least} bytes are needed at a time, the budget has {self.bytes_max}")
        self._claims[name] = Claim(size_bytes, 0, window_bytes, priority, now)

    def admit(self, now: float) -> list[Admitted[Name]]:
        """Whose turn it is, and for how much: as many as fit, in order, and none past one that does not."""
        admitted: list[Admitted[Name]] = []
        while (first := self._first(now)) is not None:
            claim = self._claims[first]
            if claim.next_bytes > self.free_bytes:
                break
            count = min(claim.wanted_bytes, self.free_bytes)
            claim.wanted_bytes -= count
            claim.taken_bytes += count
            claim.has_begun = True
            self.taken_bytes += count
            admitted.append(Admitted(first, count))
        return admitted

    def _first(self, now: float) -> Name | None:
        """Who has begun goes first: it ends the sooner, and gives back what it has."""
        best: tuple[bool, float] | None = None
        first: Name | None = None
        for name, claim in self._claims.items():
            if not claim.wanted_bytes:
                continue
            rank = (claim.has_begun, claim.priority + (now - claim.asked_at) / self._ageing_s)
            if best is None or rank > best:  # at equal rank who came first
                best, first = rank, name
        return first

    def give_back(self, name: Name, size_bytes: int) -> None:
        """Memory that it had is free. One that has nothing more, and wants nothing, is forgotten."""
        claim = self._claims[name]
        if not 0 <= size_bytes <= claim.taken_bytes:
            raise ValueError(f"{name!r} gives back {size_bytes} of {claim.taken_bytes} bytes")
        claim.taken_bytes -= size_bytes
        self.taken_bytes -= size_bytes
        self._forget(name, claim)

    def withdraw(self, name: Name) -> None:
        """It wants nothing more; what it has is its own until it gives that back. Unknown: nothing to do."""
        if (claim := self._claims.get(name)) is not None:
            claim.wanted_bytes = 0
            self._forget(name, claim)

    def _forget(self, name: Name, claim: Claim) -> None:
        if not claim.taken_bytes and not claim.wanted_bytes:
            del self._claims[name]

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        taken = sum(claim.taken_bytes for claim in self._claims.values())
        assert self.taken_bytes == taken <= self.bytes_max
        for claim in self._claims.values():
            assert claim.wanted_bytes >= 0
            assert claim.taken_bytes or claim.wanted_bytes, "a claim to nothing"
            assert claim.window_bytes or not (claim.taken_bytes and claim.wanted_bytes)


def tokens_held(bytes_max: int, *, chunk_bytes: int, chunk_tokens: int) -> int:
    """The longest prompt that a budget holds, in tokens, aligned down to whole chunks."""
    return bytes_max // chunk_bytes * chunk_tokens
