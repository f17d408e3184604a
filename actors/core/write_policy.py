"""When an object is saved to which store, and what became of it: rules and books, all bounded."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.actors.api.types import KEY_BYTES
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.routing import ONE_PLACE, Routing


class Moment(enum.Enum):
    """When a store wants an object."""

    COMMITTED = "as soon as an engine has committed it"
    HIT_TWICE = "when lookups have hit its chunk for the second time"
    LEAVING = "before it leaves L1"


@dataclass(frozen=True, slots=True)
class Tier:
    """One store, as the writer sees it. `moment` None: nothing is saved to it."""

    name: str
    moment: Moment | None
    routing: Routing = ONE_PLACE


class SecondHits:
    """Which chunks are hit for the second time. Remembers the last `chunks_max` that were hit once.

    A second hit starts the count anew, so a chunk that lives long in L1 is asked about again now and then.
    """

    def __init__(self, *, chunks_max: int) -> None:
        self._chunks_max = chunks_max
        self._once: OrderedDict[bytes, None] = OrderedDict()  # oldest first; len <= chunks_max

    def __len__(self) -> int:
        return len(self._once)

    def hit(self, keys: bytes) -> bytes:
        """Those of these packed keys that were hit once before, packed."""
        second = bytearray()
        for start in range(0, len(keys), KEY_BYTES):
            key = keys[start : start + KEY_BYTES]
            if key in self._once:
                del self._once[key]
                second += key
                continue
            self._once[key] = None
            if len(self._once) > self._chunks_max:
                self._once.popitem(last=False)
        return bytes(second)


class Fates:
    """What became of each object at each tier.

    An object is remembered while it is pending anywhere, and after that until `settled_max` others were settled later.
    Pending ones are bounded by whoever makes them pending.
    """

    def __init__(self, tiers: int, *, settled_max: int) -> None:
        self._tiers = tiers
        self._settled_max = settled_max
        self._pending: dict[bytes, bytearray] = {}  # by name; PENDING at one tier at least
        self._settled: OrderedDict[bytes, bytes] = OrderedDict()  # oldest first; <= settled_max

    def __len__(self) -> int:
        return len(self._pending) + len(self._settled)

    def begin(self, name: bytes, tier: int) -> bool:
        """It is to be saved there. False: it is on its way there already."""
        states = self._pending.get(name)
        if states is None:
            known = self._settled.pop(name, None)
            states = bytearray(known or bytes([ObjectState.NOT_WANTED]) * self._tiers)
            self._pending[name] = states
        elif states[tier] == ObjectState.PENDING:
            return False
        states[tier] = ObjectState.PENDING
        return True

    def settle(self, name: bytes, tier: int, state: ObjectState) -> bool:
        """It came to this. True: it is pending nowhere any more."""
        states = self._pending[name]
        assert states[tier] == ObjectState.PENDING
        assert state in (ObjectState.SAVED, ObjectState.FAILED)
        states[tier] = state
        if ObjectState.PENDING in states:
            return False
        self._settled[name] = bytes(self._pending.pop(name))
        if len(self._settled) > self._settled_max:
            self._settled.popitem(last=False)
        return True

    def skip(self, name: bytes) -> None:
        """No tier wants it now: that is remembered too, of what nothing better is known of."""
        if name in self._pending or name in self._settled:
            return
        self._settled[name] = bytes([ObjectState.NOT_WANTED]) * self._tiers
        if len(self._settled) > self._settled_max:
            self._settled.popitem(last=False)

    def is_pending(self, name: bytes) -> bool:
        return name in self._pending

    def states(self, name: bytes) -> bytes | None:
        """One byte of ObjectState for each tier; None: nothing is remembered."""
        pending = self._pending.get(name)
        return bytes(pending) if pending is not None else self._settled.get(name)

    def pending(self) -> Iterator[bytes]:
        return iter(self._pending)
