"""A store as a third party would write it; and one that does not keep its word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import anyio

from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.store import (
    DONE,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    Wanted,
)
from penstock.runtime import config


class KindStore(MemoryStore):
    """Keeps its shelves by name, for as long as the process lives."""

    class Config(config.Config, frozen=True):
        shelf: str = "one"

    shelves: ClassVar[dict[str, Shelf]] = {}

    @classmethod
    async def open(cls, options: Config, context: StoreContext) -> KindStore:
        assert context.name
        return cls(cls.shelves.setdefault(options.shelf, {}), capacity_bytes=1 << 27)


class ForgetfulStore(KindStore):
    """Says it has saved, and has saved all but the first of a batch."""

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        await super().save(given[1:])
        return [DONE] * len(given)


class LateStore(KindStore):
    """A disk that has a load under way for as long as one likes, whoever has given it up meanwhile."""

    owed: ClassVar[list[Wanted]] = []

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        self.owed.extend(wanted)
        return await anyio.sleep_forever()

    def load_at_once(self, wanted: Sequence[Wanted]) -> list[Outcome] | None:
        return None

    @classmethod
    def deliver(cls, byte: int) -> None:
        """All that is owed arrives, whatever lies where it was to go."""
        while cls.owed:
            late = cls.owed.pop()
            late.payload[:] = bytes([byte]) * len(late.payload)


class NoStore:
    """No store at all."""


class OthersStore(KindStore):
    """One that others write, too."""

    ownership = Ownership.SHARED
    closed: ClassVar[int] = 0

    async def aclose(self) -> None:
        type(self).closed += 1
