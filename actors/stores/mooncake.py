"""Objects in a Mooncake pool: the memory of many machines, found through one master.

Name: PREFIX + digits of the key. Value: header and payload, moved between the arena and the pool without a copy of
ours. It is shared: the master evicts, nothing is counted here, and everything is gone when the master restarts.

An object that is there with the same header is the same object, and is not written again: a header holds the digests
of all runs. Within a node nobody reads an object while it is changed; between nodes digests tell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import anyio

from penstock.actors.api.store import Keys
from penstock.actors.stores.key_turns import KeyTurns, in_turn
from penstock.actors.stores.mooncake_client import (
    Client,
    Code,
    Connection,
    Parts,
    SharedClient,
    is_over,
    shared_client,
)
from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.store import (
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreFault,
    Wanted,
    nothing_to_count,
)
from penstock.actors.stores.threads import Threads
from penstock.runtime.log import Log

Suspect: TypeAlias = Wanted | Given

_FULL = {Code.NO_ROOM, Code.TENANT_FULL}
_ABSENT = {Code.NOT_FOUND, Code.NOT_READY}
_SAID = {
    Code.NO_ROOM: "no segment of the pool has room for it, or none is mounted",
    Code.INVALID: "the library refuses its memory or its size",
    Code.RPC_FAILED: "the master cannot be reached",
    Code.RPC_TIMEOUT: "the master does not answer",
    Code.LEASE_EXPIRED: "reading it took longer than the master's default_kv_lease_ttl",
    Code.TENANT_FULL: "the tenant's quota of the pool is used up",
}


async def open_mooncake_store(config: MooncakeConfig, context: StoreContext) -> MooncakeStore:
    """Raises StoreRefused without the library; StoreFault while the master cannot be reached."""
    store = MooncakeStore(config, shared_client(Connection.of(config)), context.memory)
    await store.connect()
    return store


class MooncakeStore:
    """The objects of one pool."""

    ownership = Ownership.SHARED
    capacity_bytes = 0

    def __init__(
        self, config: MooncakeConfig, client: SharedClient, memory: memoryview | None
    ) -> None:
        self._prefix = config.prefix
        self._name = config.name
        self._client = client
        self._memory = memory
        self._registered: memoryview | None = None
        self._is_closed = False
        self._threads = Threads(f"store[{config.name}]", config.threads)
        self._turns = KeyTurns()
        self._close_within_s = config.close_within
        self._log = Log(f"store.{config.name}")

    async def connect(self) -> None:
        """Raises StoreRefused, StoreFault."""
        await self._threads.run(self._connect)

    async def locate(self, keys: Keys) -> bytes:
        if not len(keys):
            return b""
        names = [self._name_of(key) for key in keys]
        found = await self._threads.run(lambda: self._have(names))
        return bytes(self._known(one, "located") == 1 for one in found)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        if not wanted:
            return []
        turn = self._turns.to_read({one.key for one in wanted})
        return await in_turn(turn, self._threads, partial(self._load, [*wanted]))

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        if not given:
            return []
        last = {one.key: one for one in given}
        turn = self._turns.to_change(last.keys())
        outcomes = await in_turn(turn, self._threads, partial(self._save, [*last.values()]))
        told = dict(zip(last, outcomes, strict=True))
        return [told[one.key] for one in given]

    async def delete(self, keys: Keys) -> None:
        if not len(keys):
            return
        once = [*dict.fromkeys(keys)]
        names = [self._name_of(key) for key in once]
        turn = self._turns.to_change(once)
        for code in await in_turn(turn, self._threads, partial(self._remove, names)):
            self._known(code, "deleted")

    def recover(self) -> AsyncIterator[list[Entry]]:
        return nothing_to_count()

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return header_bytes + payload_bytes

    async def aclose(self) -> None:
        """Wait for what is under way, but no longer than `close_within`. The client stays, for who comes next."""
        if self._is_closed:
            return
        self._is_closed = True
        with anyio.move_on_after(self._close_within_s, shield=True) as scope:
            await self._threads.close()
        if scope.cancelled_caught:
            self._log.warning("calls_left_behind", after_s=self._close_within_s)
        elif self._registered is not None:
            self._client.forget(self._registered)

    # In a thread of their own.

    def _connect(self) -> None:
        with self._client.use():
            pass
        if self._memory is not None:
            self._client.register(self._memory)
            self._registered = self._memory

    def _have(self, names: list[str]) -> list[int]:
        with self._client.use() as client:
            return client.have(names)

    def _remove(self, names: list[str]) -> list[int]:
        with self._client.use() as client:
            return client.remove(names)

    def _load(self, wanted: list[Wanted]) -> list[Outcome]:
        names = [self._name_of(one.key) for one in wanted]
        with self._client.use() as client:
            sizes = client.sizes(names)
            pairs = zip(wanted, sizes, strict=True)
            outcomes = [_sized(one, size) for one, size in pairs]
            fit = [at for at, outcome in enumerate(outcomes) if outcome.fate is Fate.DONE]
            for some in _rounds(fit, names):
                into: list[Parts] = [
                    (wanted[at].header, wanted[at].payload[: outcomes[at].payload_bytes])
                    for at in some
                ]
                codes = client.read([names[at] for at in some], into)
                self._suspect(client, codes, [wanted[at] for at in some])
                for at, code in zip(some, codes, strict=True):
                    if code < 0:
                        outcomes[at] = _failed(code)
        return outcomes

    def _save(self, given: list[Given]) -> list[Outcome]:
        names = [self._name_of(one.key) for one in given]
        with self._client.use() as client:
            codes = self._make_place(client, names, given)
            fresh = [at for at, code in enumerate(codes) if code == Code.NOT_FOUND]
            if fresh:
                of = [_parts(given[at]) for at in fresh]
                wrote = client.write([names[at] for at in fresh], of)
                self._suspect(client, wrote, [given[at] for at in fresh])
                for at, code in zip(fresh, wrote, strict=True):
                    codes[at] = code
        return [DONE if code >= 0 else _failed(code) for code in codes]

    def _make_place(self, client: Client, names: list[str], given: list[Given]) -> list[int]:
        """0 where the same object is there already, NOT_FOUND where there is none, or none any more."""
        codes = client.sizes(names)
        other = []
        for at, (name, one) in enumerate(zip(names, given, strict=True)):
            if codes[at] < 0:
                continue
            header = fresh_pages([len(one.header)])[0]
            is_as_long = codes[at] == len(one.header) + one.payload_bytes
            read = client.read_start(name, header) if is_as_long else 0
            self._suspect(client, [read], [replace(one, header=header)])
            if read == len(header) and bytes(header) == bytes(one.header):
                codes[at] = 0
            else:
                other.append(at)
        if other:
            for at, code in zip(other, client.remove([names[at] for at in other]), strict=True):
                codes[at] = Code.NOT_FOUND if code == 0 else code
        return codes

    def _suspect(self, client: Client, codes: list[int], memory: Sequence[Suspect]) -> None:
        """Keep what the library may still touch."""
        suspects = [one for code, one in zip(codes, memory, strict=True) if not is_over(code)]
        if suspects:
            size = sum(len(one.header) + len(one.payload) for one in suspects)
            self._client.suspect(client, suspects, size)
            self._log.warning("transfers_failed", count=len(suspects), kept_bytes=size)

    def _name_of(self, key: bytes) -> str:
        return f"{self._prefix}{key.hex()}"

    def _known(self, code: int, done: str) -> int:
        """Raises StoreFault when the pool could not say."""
        if code >= 0 or code in _ABSENT:
            return code
        raise StoreFault(f"{self._name}: objects could not be {done}: {_reason(code)}")


def _rounds(places: list[int], names: list[str]) -> Iterator[list[int]]:
    """All of `places`, in lists in none of which a name is twice."""
    while places:
        first: dict[str, int] = {}
        for at in places:
            first.setdefault(names[at], at)
        yield [*first.values()]
        taken = {*first.values()}
        places = [at for at in places if at not in taken]


def _parts(given: Given) -> Parts:
    return given.header, given.payload[: given.payload_bytes]


def _sized(one: Wanted, size: int) -> Outcome:
    """Whether an object of so many bytes fits: DONE, with the bytes of its payload."""
    header = len(one.header)
    if size < 0:
        return _failed(size)
    if not header <= size <= header + len(one.payload):
        room = f"there is room for {header} + {len(one.payload)}"
        return Outcome(Fate.REFUSED, reason=f"it has {size} bytes, {room}")
    return Outcome(Fate.DONE, size - header)


def _failed(code: int) -> Outcome:
    if code in _ABSENT:
        return MISSING
    return Outcome(Fate.FULL if code in _FULL else Fate.FAULT, reason=_reason(code))


def _reason(code: int) -> str:
    known = code in Code.__members__.values()
    return _SAID.get(Code(code), Code(code).name) if known else f"Mooncake's error {code}"
