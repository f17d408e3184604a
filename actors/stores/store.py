"""What a store is: five methods over batches, plus how it is opened and what it recovers.

Everything else exists once, in the actor around it (`store_actor.py`): admission, deadlines, retries, breaker, usage,
eviction, header and digest checks, metrics. A store may lose objects, which is a miss; it may never give out bytes
that differ from what was saved under that key, nor make visible what was not saved whole.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from penstock.actors.api.peers import Reach
from penstock.actors.api.store import ArenaUsage, Keys, Target
from penstock.actors.api.types import Epoch
from penstock.actors.core.lossy import LossyNamespaces
from penstock.actors.stores.threads import Threads
from penstock.runtime.errors import ConfigError, UnavailableError

BLOCK_BYTES = 4096
"""Headers and the views of payloads are whole blocks of so many bytes at addresses that are multiples of it."""

BESIDE_MAX = 4  # blocking calls of one store at a time, beside its I/O


@dataclass(slots=True)  # as Given
class Wanted:
    """Read one object: its header into `header`, all of it, and its payload into `payload`, no byte beyond.

    Both are writable, page-aligned and whole blocks. Whoever may still write them keeps `hold` alive. Nobody changes
    it. `target` tells more of what is loaded for L1."""

    key: bytes
    device: int
    header: memoryview = field(repr=False)
    payload: memoryview = field(repr=False)
    hold: object = field(repr=False)
    target: Target | None = field(default=None, repr=False)


@dataclass(slots=True)  # a frozen one takes four times as long to make, and there are many
class Given:
    """Write one object: `header` (whole blocks) and the first `payload_bytes` of `payload` (whole blocks). Nobody
    changes it."""

    key: bytes
    device: int
    tenant: bytes  # 16 bytes; zeros: none
    header: memoryview = field(repr=False)
    payload: memoryview = field(repr=False)
    payload_bytes: int
    hold: object = field(repr=False)


class Fate(enum.Enum):
    """Of one object in a batch."""

    DONE = "read or written, whole"
    MISSING = "there is no such object"
    REFUSED = "it does not fit, or is not what was asked for; asking again is of no use"
    DAMAGED = "what is there is not whole, whatever was asked for"
    LOCKED = "it is there, and cannot be read or written as the store is configured; it stays"
    FAULT = "the medium or the service failed; asking again may help"
    FULL = "the medium or the service has no room"


@dataclass(frozen=True, slots=True)
class Outcome:
    fate: Fate
    payload_bytes: int = 0  # of a load: how many bytes the stored payload has
    reason: str = ""
    taken_bytes: int = 0  # of a save that took less of the medium than Store.cost said: how much
    may_be_there: bool = False  # of a save that failed: it may be visible all the same


DONE = Outcome(Fate.DONE)
MISSING = Outcome(Fate.MISSING)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object found by recovery."""

    key: bytes
    device: int
    stored_bytes: int  # as by Store.cost
    tenant: bytes | None  # 16 bytes; zeros: none. None: not known, as it was not read


class Ownership(enum.Enum):
    EXCLUSIVE = "ours alone: usage is byte-exact and eviction is ours"
    SHARED = "others write it too: expiry is the service's, or by TTL"


class StoreFault(UnavailableError):
    """The medium or service failed for a whole batch; asking again may help. Says what and where."""


class StoreRefused(ConfigError):
    """The store cannot be opened as configured: says what is wrong, and what to do."""


class Store(Protocol):
    """One backend. All methods are coroutines that never block the loop; outcomes are per object, in order.

    A batch may name a key twice. Cancelled at any await, a method leaves nothing half-visible, and memory it may still
    touch to whoever holds `hold`. Methods raise StoreFault and nothing else.
    """

    ownership: Ownership

    async def locate(self, keys: Keys) -> bytes:
        """One byte per key: 1 if it is there."""

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]: ...

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        """Each becomes visible at once and whole, or not at all; what was there under its key stays until then."""

    async def delete(self, keys: Keys) -> None: ...

    def recover(self) -> AsyncIterator[list[Entry]]:
        """What is there, in bounded batches, oldest first if that is known. Called once, by the owner of an
        exclusive store, before the first save. A shared store yields nothing."""

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        """Bytes of the medium that one such object takes; at most, if outcomes of saves tell what they took."""

    @property
    def capacity_bytes(self) -> int:
        """Of the medium, for objects; 0: as configured."""

    async def aclose(self) -> None:
        """Let go of everything, when nothing is under way. Idempotent."""


@runtime_checkable
class QuickStore(Protocol):
    """What a store may offer besides: few small objects that lie in memory already, without a turn of the loop."""

    def load_at_once(self, wanted: Sequence[Wanted]) -> list[Outcome] | None:
        """As `load`, where nothing has to be waited for and all of it is done; else None, and `load` is called.

        `wanted` need not be aligned, and may have been written to in any case.
        """


@runtime_checkable
class KnowingStore(Protocol):
    """What a store of others' may offer besides: what is there, without a turn of the loop."""

    def locate_at_once(self, keys: Keys) -> bytes | None:
        """As `locate`; None: that has to be called."""


class Reading(Protocol):
    """A load that was begun. It goes on when nobody waits for it."""

    async def outcomes(self) -> list[Outcome]:
        """Of each, in order. Raises StoreFault. Asked for once at most."""


@runtime_checkable
class EagerStore(Protocol):
    """What a store may offer besides: that a load is at work before anybody waits for it."""

    def begin_load(self, wanted: Sequence[Wanted]) -> Reading:
        """As `load`, begun in this step, without waiting for anything."""


@runtime_checkable
class Places(Protocol):
    """What a store may offer besides, whose medium is several folders or devices that fail each by itself."""

    def place_of(self, key: bytes, device: int) -> int:
        """The number of the one that such an object is kept on."""

    @property
    def places_bytes(self) -> tuple[int, ...]:
        """How much objects may take of each; none: of all together, as by `capacity_bytes`."""


@runtime_checkable
class Arenas(Protocol):
    """What a store can do, too, whose medium consists of parts that come and go while it works.

    All but `arenas` raise StoreRefused, which says why it cannot be done."""

    def arenas(self) -> tuple[ArenaUsage, ...]: ...

    async def add_arena(self, path: Path, size_bytes: int) -> None:
        """What lies there is found by the next `recover`. Raises StoreFault."""

    def close_arena(self, path: Path) -> None:
        """Nothing new is kept there, and it counts for the capacity no more."""

    async def drain_arena(self, path: Path) -> set[bytes]:
        """Close it, and move what is there to the others. Returns the keys of what had to be dropped."""

    async def remove_arena(self, path: Path) -> None:
        """Let go of one that has nothing any more."""


class Around:
    """A store around another one, which does all that is not said here."""

    def __init__(self, below: Store) -> None:
        self.below = below
        self.ownership = below.ownership

    async def locate(self, keys: Keys) -> bytes:
        return await self.below.locate(keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return await self.below.load(wanted)

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        return await self.below.save(given)

    async def delete(self, keys: Keys) -> None:
        await self.below.delete(keys)

    def recover(self) -> AsyncIterator[list[Entry]]:
        return self.below.recover()

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return self.below.cost(header_bytes, payload_bytes)

    @property
    def capacity_bytes(self) -> int:
        return self.below.capacity_bytes

    async def aclose(self) -> None:
        await self.below.aclose()


def arenas_of(store: Store) -> Arenas | None:
    """None: its medium is one."""
    while isinstance(store, Around):
        store = store.below
    return store if isinstance(store, Arenas) else None


def places_of(store: Store) -> Places:
    """Of a store whose medium is one: that one."""
    while isinstance(store, Around):
        store = store.below
    return store if isinstance(store, Places) else _OnePlace()


class _OnePlace:
    places_bytes = ()

    def place_of(self, _key: bytes, _device: int) -> int:
        return 0


async def nothing_to_count() -> AsyncIterator[list[Entry]]:
    """What `recover` of a shared store gives: what others keep there is not in our books."""
    nothing: list[list[Entry]] = []
    for batch in nothing:
        yield batch


@dataclass(frozen=True, slots=True)
class StoreContext:
    """What a store is opened with, beside its own configuration."""

    name: str
    epoch: Epoch  # unique to this life of this node: for temporary names
    lossy: LossyNamespaces = field(default_factory=LossyNamespaces)  # of the sessions of this node
    memory: memoryview | None = field(
        default=None, repr=False
    )  # all that payloads may lie in, for libraries that want to know it beforehand
    beside: Threads = field(
        default_factory=lambda: Threads("store", BESIDE_MAX), repr=False
    )  # for opening and closing, of all lives of the store: a medium that hangs keeps no more threads than these
    reach: Reach | None = field(default=None, repr=False)  # of other nodes, where there are any
