"""A store as a third party would write it; and one that does not keep its word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, TypeVar, cast

import anyio

from penstock.actors.api.store import Keys
from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.store import (
    DONE,
    Entry,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    Wanted,
)
from penstock.runtime import config

Answer = TypeVar("Answer")


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


class WildStore(KindStore):
    """Raises or answers what a test says, by the name of the method: an error is raised, all else answered."""

    wild: ClassVar[dict[str, object]] = {}

    @classmethod
    async def open(cls, options: KindStore.Config, context: StoreContext) -> KindStore:
        cls._go("open", None)
        return await super().open(options, context)

    async def locate(self, keys: Keys) -> bytes:
        return self._go("locate", await super().locate(keys))

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return self._go("load", await super().load(wanted))

    def load_at_once(self, wanted: Sequence[Wanted]) -> list[Outcome] | None:
        return self._go("load", super().load_at_once(wanted))

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        return self._go("save", await super().save(given))

    async def delete(self, keys: Keys) -> None:
        self._go("delete", await super().delete(keys))

    async def recover(self) -> AsyncIterator[list[Entry]]:
        async for batch in super().recover():
            yield self._go("recover", batch)
        self._go("recover", None)

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return self._go("cost", super().cost(header_bytes, payload_bytes))

    async def aclose(self) -> None:
        self._go("aclose", await super().aclose())

    @classmethod
    def _go(cls, method: str, answer: Answer) -> Answer:
        wild = cls.wild.get(method, answer)
        if isinstance(wild, BaseException):
            raise wild
        return cast("Answer", wild)


class NoStore:
    """No store at all."""


class OthersStore(KindStore):
    """One that others write, too."""

    ownership = Ownership.SHARED
    closed: ClassVar[int] = 0

    async def aclose(self) -> None:
        type(self).closed += 1
