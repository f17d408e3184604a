"""A store that is not ours, kept to its word: whatever it raises or answers, it costs its own answers and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from penstock.actors.api.store import DEVICE_BYTES, Keys
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.stores.foreign import Foreign, ForeignTask
from penstock.actors.stores.header import TENANT_BYTES
from penstock.actors.stores.store import (
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    QuickStore,
    Store,
    StoreFault,
    Wanted,
)
from penstock.runtime.log import Log

Result = TypeVar("Result")

DEVICES_MAX = 1 << 8 * DEVICE_BYTES
SIZES_MAX = 1 << 64


class PluginStore:
    """`store`, which may do anything. Arenas, which come and go while it works, are of ours alone."""

    def __init__(self, name: str, store: Store) -> None:
        """Raises StoreFault."""
        self._name = name
        self._store = store
        self._log = Log(f"store.{name}")
        self.ownership: Ownership = self._now(lambda: Ownership(store.ownership))
        self.capacity_bytes: int = self._now(lambda: max(0, int(store.capacity_bytes)))

    async def locate(self, keys: Keys) -> bytes:
        found = await self._call(lambda: self._store.locate(keys))
        if not isinstance(found, bytes) or len(found) != len(keys):
            raise self._nonsense("locate", found, len(keys))
        return found

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        outcomes = await self._call(lambda: self._store.load(wanted))
        if not _are_outcomes(outcomes, len(wanted)):
            raise self._nonsense("load", outcomes, len(wanted))
        return outcomes

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        outcomes = await self._call(lambda: self._store.save(given))
        if not _are_outcomes(outcomes, len(given)):
            raise self._nonsense("save", outcomes, len(given))
        return [*map(self._counted, given, outcomes)]

    async def delete(self, keys: Keys) -> None:
        await self._call(lambda: self._store.delete(keys))

    async def recover(self) -> AsyncIterator[list[Entry]]:
        heard = ForeignTask(StoreFault)
        with heard:
            async for batch in self._store.recover():
                if not isinstance(batch, list) or not all(map(_is_entry, batch)):
                    raise self._nonsense("recover", batch, 0)
                yield batch
            return
        raise self._fault(heard)

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        """What it says; or, if that is nothing of use, what an object has."""
        heard = Foreign()
        with heard:
            said = self._store.cost(header_bytes, payload_bytes)
            if isinstance(said, int) and said >= 0:
                return said
        trouble = f"{heard.trouble}"
        self._log.warning_once("cost_unknown", trouble, reason=trouble or "no number of bytes")
        return header_bytes + payload_bytes

    async def aclose(self) -> None:
        heard = ForeignTask()
        with heard:
            await self._store.aclose()
            return
        self._log.warning("close_failed", reason=f"{heard.trouble}")

    async def _call(self, work: Callable[[], Awaitable[Result]]) -> Result:
        heard = ForeignTask(StoreFault)
        with heard:
            return await work()
        raise self._fault(heard)

    def _now(self, work: Callable[[], Result]) -> Result:
        heard = Foreign(StoreFault)
        with heard:
            return work()
        raise self._fault(heard)

    def _fault(self, heard: Foreign) -> StoreFault:
        return StoreFault(f"{self._name}: {heard.trouble}")

    def _nonsense(self, asked: str, answer: object, count: int) -> StoreFault:
        many = f"{len(answer)}" if isinstance(answer, (bytes, list)) else type(answer).__name__
        problem = f"{asked} answered {many} where {count} were asked for, or what is no answer"
        return StoreFault(f"{self._name}: {problem}")

    def _counted(self, given: Given, saved: Outcome) -> Outcome:
        """Books are kept by what it took: at most what was set aside for it."""
        most = self.cost(len(given.header), given.payload_bytes)
        if 0 <= saved.taken_bytes <= most:
            return saved
        reason = f"it took {saved.taken_bytes} bytes, at most {most} by its own word"
        return Outcome(Fate.FAULT, reason=reason, may_be_there=True)


class QuickPluginStore(PluginStore):
    """One that has some objects at hand."""

    def __init__(self, name: str, store: Store, quick: QuickStore) -> None:
        super().__init__(name, store)
        self._quick = quick

    def load_at_once(self, wanted: Sequence[Wanted]) -> list[Outcome] | None:
        heard = Foreign()
        with heard:
            outcomes = self._quick.load_at_once(wanted)
            return outcomes if _are_outcomes(outcomes, len(wanted)) else None
        reason = f"{heard.trouble}"
        self._log.warning_once("load_at_once_failed", reason, reason=reason)
        return None


def plugin_store(name: str, store: Store) -> PluginStore:
    """Raises StoreFault."""
    if isinstance(store, QuickStore):
        return QuickPluginStore(name, store, store)
    return PluginStore(name, store)


def _are_outcomes(answers: object, count: int) -> bool:
    return isinstance(answers, list) and len(answers) == count and all(map(_is_outcome, answers))


def _is_outcome(one: object) -> bool:
    return (
        isinstance(one, Outcome)
        and isinstance(one.fate, Fate)
        and isinstance(one.payload_bytes, int)
        and isinstance(one.taken_bytes, int)
        and isinstance(one.reason, str)
    )


def _is_entry(one: object) -> bool:
    return (
        isinstance(one, Entry)
        and isinstance(one.key, bytes)
        and len(one.key) == KEY_BYTES
        and _is_number(one.device, DEVICES_MAX)
        and _is_number(one.stored_bytes, SIZES_MAX)
        and (one.tenant is None or _is_tenant(one.tenant))
    )


def _is_number(one: object, limit: int) -> bool:
    return isinstance(one, int) and 0 <= one < limit


def _is_tenant(one: object) -> bool:
    return isinstance(one, bytes) and len(one) == TENANT_BYTES
