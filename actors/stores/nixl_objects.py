"""Objects as objects of a service, moved by an object plugin of NIXL: OBJ, AZURE_BLOB. Everything here blocks.

Name: PREFIX + digits of the key. Content: header and payload, put as one, which shows them whole or not at all. NIXL
puts one piece of memory as one object, and so a save goes through a copy. It cannot tell how long an object is: a
header says it. And it cannot delete: what is deleted is overwritten by a grave of a few bytes, which is not found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from penstock.actors.api.store import Keys
from penstock.actors.stores.header import MAGIC, HeaderRefused, decode, whole_blocks
from penstock.actors.stores.nixl_agent import Agent, NixlFailed, Parts, Remote, Way
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.store import (
    BLOCK_BYTES,
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    StoreFault,
    Wanted,
)

Move: TypeAlias = tuple[Parts, Remote, object]

GRAVE = b"deleted\n"
assert len(GRAVE) == len(MAGIC)


class NixlObjects:
    """One service, one agent."""

    def __init__(self, config: NixlConfig, agent: Agent) -> None:
        self._agent = agent
        self._prefix = config.prefix
        self._depth = config.depth
        self._numbers = itertools.count(1)  # NIXL tells objects apart by them

    def locate(self, keys: Keys) -> bytes:
        """Raises StoreFault."""
        try:
            return bytes(self._are_there([*keys]))
        except NixlFailed as error:
            raise StoreFault(f"objects could not be located: {error}") from None

    def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return [
            outcome
            for start in range(0, len(wanted), self._depth)
            for outcome in self._load(wanted[start : start + self._depth])
        ]

    def save(self, given: Sequence[Given]) -> list[Outcome]:
        return [
            outcome
            for start in range(0, len(given), self._depth)
            for outcome in self._save(given[start : start + self._depth])
        ]

    def delete(self, keys: Keys) -> None:
        """Raises StoreFault."""
        try:
            once = [*dict.fromkeys(keys)]
            there = [
                key for key, is_there in zip(once, self._are_there(once), strict=True) if is_there
            ]
        except NixlFailed as error:
            raise StoreFault(f"objects could not be deleted: {error}") from None
        graves = fresh_pages([BLOCK_BYTES] * len(there))
        for grave in graves:
            grave[: len(GRAVE)] = GRAVE
        moves = [
            ([grave[: len(GRAVE)]], self._remote(key, len(GRAVE)), grave)
            for key, grave in zip(there, graves, strict=True)
        ]
        if problem := next(filter(None, self._agent.move(Way.WRITE, moves)), ""):
            raise StoreFault(f"objects could not be deleted: {problem}")

    def entries(self, batch_max: int) -> Iterator[list[Entry]]:
        """Nothing is counted."""
        return iter(())

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return header_bytes + whole_blocks(payload_bytes)

    def let_go(self) -> None:
        """There is nothing."""

    def close(self) -> None:
        """There is nothing."""

    def _are_there(self, keys: Sequence[bytes]) -> list[bool]:
        """Those that are, and are no graves. Raises NixlFailed."""
        found = self._agent.exist([self._name_of(key) for key in keys])
        there = [at for at, is_there in enumerate(found) if is_there]
        starts = fresh_pages([BLOCK_BYTES] * len(there))
        moves = [
            ([start[: len(MAGIC)]], self._remote(keys[at], len(MAGIC)), start)
            for at, start in zip(there, starts, strict=True)
        ]
        for at, start, problem in zip(
            there, starts, self._agent.move(Way.READ, moves), strict=True
        ):
            if problem:
                raise NixlFailed(problem)
            found[at] = bytes(start[: len(GRAVE)]) != GRAVE
        return found

    def _load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        try:
            found = self._are_there([one.key for one in wanted])
        except NixlFailed as error:
            return [Outcome(Fate.FAULT, reason=f"NIXL: {error}")] * len(wanted)
        there = [at for at, is_there in enumerate(found) if is_there]
        outcomes = [MISSING] * len(wanted)
        headers = [
            ([wanted[at].header], self._remote(wanted[at].key, len(wanted[at].header)), wanted[at])
            for at in there
        ]
        for at, problem in zip(there, self._agent.move(Way.READ, headers), strict=True):
            outcomes[at] = _fault(problem) if problem else _sized(wanted[at])
        fit = [at for at in there if outcomes[at].fate is Fate.DONE and outcomes[at].payload_bytes]
        payloads = [self._payload(wanted[at], outcomes[at].payload_bytes) for at in fit]
        for at, problem in zip(fit, self._agent.move(Way.READ, payloads), strict=True):
            if problem:
                outcomes[at] = _fault(problem)
        return outcomes

    def _payload(self, one: Wanted, size_bytes: int) -> Move:
        remote = self._remote(one.key, size_bytes, start=len(one.header))
        return [one.payload[:size_bytes]], remote, one

    def _save(self, given: Sequence[Given]) -> list[Outcome]:
        moves = []
        for one in given:
            size = len(one.header) + one.payload_bytes
            whole = fresh_pages([whole_blocks(size)])[0][:size]
            whole[: len(one.header)] = one.header
            whole[len(one.header) :] = one.payload[: one.payload_bytes]
            moves.append(([whole], self._remote(one.key, size), whole))
        return [
            _fault(problem) if problem else DONE for problem in self._agent.move(Way.WRITE, moves)
        ]

    def _remote(self, key: bytes, size_bytes: int, *, start: int = 0) -> Remote:
        return Remote(next(self._numbers), size_bytes, self._name_of(key), start)

    def _name_of(self, key: bytes) -> str:
        return f"{self._prefix}{key.hex()}"


def _sized(one: Wanted) -> Outcome:
    """How long the payload is, by the header that was read; whether that is a header of it, others find out."""
    try:
        size = whole_blocks(decode(one.header).stored_bytes)
    except HeaderRefused as refusal:
        return Outcome(Fate.REFUSED, reason=f"{refusal}")
    if size > len(one.payload):
        room = f"there is room for {len(one.payload)}"
        return Outcome(Fate.REFUSED, reason=f"its payload has {size} bytes, {room}")
    return Outcome(Fate.DONE, size)


def _fault(problem: str) -> Outcome:
    return Outcome(Fate.FAULT, reason=f"NIXL: {problem}")
