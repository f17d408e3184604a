"""A store as a third party would write it; and one that does not keep its word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.store import DONE, Given, Outcome, StoreContext
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


class NoStore:
    """No store at all."""
