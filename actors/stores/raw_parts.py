"""Batches of a raw store by the devices they are on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from penstock.actors.stores.native_io import Moves
from penstock.actors.stores.raw_reading import Reads
from penstock.actors.stores.raw_volume import Moving, Volume
from penstock.actors.stores.store import Outcome


@dataclass(slots=True)
class Part:
    """The objects of a batch that are on one volume, by their place in the batch."""

    volume: Volume
    objects: dict[int, Moving] = field(default_factory=dict)
    moved: Moves | None = None  # set when they are begun

    def begin(self, move: Callable[[Sequence[Moving]], Moves]) -> Part:
        self.moved = move([*self.objects.values()])
        return self

    async def over(self) -> Iterable[tuple[int, Moving, int]]:
        """Of those that are not written whole: place, object, what was moved of it."""
        assert self.moved is not None
        # Shielded: their end is heard of, even by nobody.
        moved = await asyncio.shield(self.moved)
        if moved == [one.size_bytes for one in self.objects.values()]:
            return ()
        return zip(self.objects, self.objects.values(), moved, strict=True)

    def give_back(self) -> None:
        """The slots of what is left, once nothing is written there any more."""

        def give_back(_: Moves | None = None) -> None:
            for one in self.objects.values():
                self.volume.give_back(one)

        if self.moved is None or self.moved.done():
            give_back()
        else:
            self.moved.add_done_callback(give_back)


@dataclass(slots=True)
class Reading:
    """Objects looked for, and those that were found, being read."""

    told: list[Outcome]
    parts: list[Reads] = field(default_factory=list)

    async def outcomes(self) -> list[Outcome]:
        for part in self.parts:
            outcomes = await part.outcomes()
            if len(outcomes) == len(self.told):  # as nearly always
                return outcomes
            for at, outcome in zip(part.places, outcomes, strict=True):
                self.told[at] = outcome
            for at, refusal in part.refused.items():
                self.told[at] = refusal
        return self.told
