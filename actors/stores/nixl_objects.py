"""Objects as objects of a service, moved by an object plugin of NIXL: OBJ, AZURE_BLOB. Everything here blocks.

Name: PREFIX + digits of the key. Content, put as one, which shows it whole or not at all:

    16  preamble: magic, bytes of the payload
        header
        payload

NIXL puts one piece of memory as one object, and so a save goes through a copy. It cannot tell how long an object is:
the preamble does. And it cannot delete: what is deleted is overwritten by a preamble of another magic, which is not
found.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from penstock.actors.api.store import Keys
from penstock.actors.stores.header import whole_blocks
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

_PREAMBLE = struct.Struct("<8sQ")
_MAGIC = b"PENSTOBJ"
_GRAVE = b"PENSTDEL"


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
            return bytes(size is not None for size in self._sizes([*keys]))
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
                key for key, size in zip(once, self._sizes(once), strict=True) if size is not None
            ]
        except NixlFailed as error:
            raise StoreFault(f"objects could not be deleted: {error}") from None
        moves = []
        for key in there:
            grave = fresh_pages([BLOCK_BYTES])[0][: _PREAMBLE.size]
            _PREAMBLE.pack_into(grave, 0, _GRAVE, 0)
            moves.append(([grave], self._remote(key, len(grave)), grave))
        if problem := next(filter(None, self._agent.move(Way.WRITE, moves)), ""):
            raise StoreFault(f"objects could not be deleted: {problem}")

    def entries(self, batch_max: int) -> Iterator[list[Entry]]:
        """Nothing is counted."""
        return iter(())

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return _PREAMBLE.size + header_bytes + payload_bytes

    def let_go(self) -> None:
        """There is nothing."""

    def close(self) -> None:
        """When nothing is under way."""
        self._agent.close()

    def _sizes(self, keys: Sequence[bytes]) -> list[int | None]:
        """Bytes of their payloads, of those that are there. Raises NixlFailed."""
        found = self._agent.exist([self._name_of(key) for key in keys])
        there = [at for at, is_there in enumerate(found) if is_there]
        starts = [page[: _PREAMBLE.size] for page in fresh_pages([BLOCK_BYTES] * len(there))]
        moves = [
            ([start], self._remote(keys[at], len(start)), start)
            for at, start in zip(there, starts, strict=True)
        ]
        sizes: list[int | None] = [None] * len(keys)
        for at, start, problem in zip(
            there, starts, self._agent.move(Way.READ, moves), strict=True
        ):
            if problem:
                raise NixlFailed(problem)
            magic, size = _PREAMBLE.unpack(start)
            sizes[at] = size if magic == _MAGIC else None
        return sizes

    def _load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        try:
            sizes = self._sizes([one.key for one in wanted])
        except NixlFailed as error:
            return [_fault(str(error))] * len(wanted)
        outcomes = [_sized(one, size) for one, size in zip(wanted, sizes, strict=True)]
        fit = [at for at, outcome in enumerate(outcomes) if outcome.fate is Fate.DONE]
        moves = [self._whole(wanted[at], outcomes[at].payload_bytes) for at in fit]
        for at, problem in zip(fit, self._agent.move(Way.READ, moves), strict=True):
            if problem:
                outcomes[at] = _fault(problem)
        return outcomes

    def _whole(self, one: Wanted, size_bytes: int) -> Move:
        parts = (one.header, one.payload[:size_bytes])
        remote = self._remote(one.key, len(one.header) + size_bytes, start=_PREAMBLE.size)
        return parts, remote, one

    def _save(self, given: Sequence[Given]) -> list[Outcome]:
        moves = []
        for one in given:
            begin = _PREAMBLE.size + len(one.header)
            size = begin + one.payload_bytes
            whole = fresh_pages([whole_blocks(size)])[0][:size]
            _PREAMBLE.pack_into(whole, 0, _MAGIC, one.payload_bytes)
            whole[_PREAMBLE.size : begin] = one.header
            whole[begin:] = one.payload[: one.payload_bytes]
            moves.append(([whole], self._remote(one.key, size), whole))
        problems = self._agent.move(Way.WRITE, moves)
        return [_fault(problem) if problem else DONE for problem in problems]

    def _remote(self, key: bytes, size_bytes: int, *, start: int = 0) -> Remote:
        return Remote(next(self._numbers), size_bytes, self._name_of(key), start)

    def _name_of(self, key: bytes) -> str:
        return f"{self._prefix}{key.hex()}"


def _sized(one: Wanted, size: int | None) -> Outcome:
    """Whether a payload of so many bytes fits. Of another header than is expected, the bytes tell."""
    if size is None:
        return MISSING
    if size > len(one.payload):
        room = f"there is room for {len(one.payload)}"
        return Outcome(Fate.REFUSED, reason=f"its payload has {size} bytes, {room}")
    return Outcome(Fate.DONE, size)


def _fault(problem: str) -> Outcome:
    return Outcome(Fate.FAULT, reason=f"NIXL: {problem}")
