"""What one may ask of a store, and the words all stores speak.

An object on any store is a header (`stores/header.py`) and a payload. Bytes never travel in a message: `Target` and
`Source` name memory of the arena, and whoever touches that memory keeps their `hold` alive until it has finished.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.actors.api.types import KEY_BYTES
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg

DEVICE_BYTES = 2


class StoreActor(Actor["Message"]):
    """Address of the actor around one store."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of objects, packed. `devices`: one little-endian u16 each, the rank of the shard the object is of.

    Where they are all objects of these `slots` of some chunks, chunk-major, `chunks` are the keys of those, packed:
    what is known of a chunk is known of them all."""

    packed: bytes
    devices: bytes
    chunks: bytes = b""
    slots: Sequence[int] = ()

    def __post_init__(self) -> None:
        assert len(self.packed) * DEVICE_BYTES == len(self.devices) * KEY_BYTES

    @staticmethod
    def of(named: list[tuple[bytes, int]]) -> Keys:
        """From (key, device) pairs."""
        devices = b"".join(device.to_bytes(DEVICE_BYTES, "little") for _, device in named)
        return Keys(b"".join(key for key, _ in named), devices)

    def __len__(self) -> int:
        return len(self.devices) // DEVICE_BYTES

    def __getitem__(self, index: int) -> bytes:
        return self.packed[index * KEY_BYTES : (index + 1) * KEY_BYTES]

    def device(self, index: int) -> int:
        start = index * DEVICE_BYTES
        return int.from_bytes(self.devices[start : start + DEVICE_BYTES], "little")

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


@dataclass(slots=True)  # a frozen one takes four times as long to make, and there are many
class Target:
    """One object to be loaded, and where to. Nobody changes it.

    `payload` is writable and has whole pages: `logical_bytes` rounded up. Nothing is ever written outside it.
    """

    key: bytes
    device: int
    namespace: bytes  # digest of the namespace it must have been saved under
    logical_bytes: int
    runs: int  # (layer, component) runs in it
    payload: memoryview = field(repr=False)
    hold: object = field(repr=False)
    chunk: bytes = b""  # the key of its chunk, where that is known
    slot: int = 0


class Source(NamedTuple):
    """One object to be saved. `payload` as in Target; its bytes from `logical_bytes` on mean nothing."""

    key: bytes
    device: int
    namespace: bytes
    logical_bytes: int
    digest: int  # CRC-64/NVME of the object
    run_digests: bytes  # packed u64, one per run
    tenant: bytes  # digest of the salt; b"": none
    payload: memoryview
    hold: object


class LoadOutcome(enum.Enum):
    LOADED = "whole, under its key, with its digest good"
    MISSING = (
        "the store does not have it; with a reason: not as it was asked for, and what it has stays"
    )
    DAMAGED = "what the store had under this key was not whole, or not its own; it is dropped there"
    FAILED = "the store could not say, in the time and attempts it had"
    SKIPPED = "of a prefix, behind one that is missing: it may be there, and is not loaded"


class Loaded(NamedTuple):
    """What became of one target. `digest` and `run_digests` are meaningful only when it is LOADED."""

    outcome: LoadOutcome
    digest: int = 0
    run_digests: bytes = b""
    reason: str = ""


class SaveOutcome(enum.Enum):
    SAVED = "whole, and visible; durable as the store was configured"
    NO_ROOM = "the store, or the tenant's part of it, is full and nothing may be evicted"
    FAILED = "finally, after the attempts it had; nothing of it is visible"


@dataclass(frozen=True, slots=True)
class Saved:
    outcome: SaveOutcome
    reason: str = ""
    is_passing: bool = False  # of FAILED: the store cannot now, and asking again later may help


class StoreState(enum.Enum):
    RECOVERING = "what it holds is being counted; loads work, saves wait"
    OPEN = "works"
    BROKEN = "its breaker is open: everything is missing until a probe succeeds"


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Of one store. Bytes are those it takes on the medium, headers and padding included; shared stores know only
    what this node wrote."""

    name: str
    state: StoreState
    objects: int
    used_bytes: int
    capacity_bytes: int  # 0: not ours to bound
    loads_waiting: int
    saves_waiting: int
    detail: str  # one sentence; empty when there is nothing to say


@dataclass(frozen=True, slots=True)
class ArenaUsage:
    """One of several parts of a medium that can come and go."""

    path: str
    slots: int
    taken: int  # by objects, and by reads and writes under way
    is_draining: bool  # nothing new is kept there


class Purpose(enum.Enum):
    """Why somebody wants to know what a store has. Metrics count what is looked up, and nothing else."""

    LOOKUP = "to load it"
    SAVE = "not to save it again"
    OUTCOME = "to tell what became of a save"


@dataclass(frozen=True, slots=True)
class Locate(Msg["StoreActor", bytes]):
    """Answers one byte per key: 1 if the store has it, as far as it knows. A store that cannot say has nothing."""

    keys: Keys
    purpose: Purpose = Purpose.LOOKUP


class Ahead:
    """Reads that are under way for a load which is still to be asked for. Let go of without that, they end in vain."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class ReadAhead(Msg["StoreActor", Ahead | None]):
    """Begin to read now what a Load of the same targets asks for next. Of use only by `ask_now`; None: not begun."""

    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Load(Msg["StoreActor", tuple[Loaded, ...]]):
    """Answers one per target, in order, when all are settled and nothing of this load writes any more, or, given up,
    leaves what is still written to by whoever holds `hold`."""

    targets: tuple[Target, ...]
    ahead: Ahead | None = field(default=None, repr=False)  # of these targets


@dataclass(frozen=True, slots=True)
class LoadPrefix(Load):
    """As Load, of targets in the order of a prompt, none of which is of use without all before it.

    Where the store's books tell beforehand that one is missing, nothing behind it is read: that is SKIPPED. What was
    read is told as it is. An error is no hole: others may have what could not be read, and then the rest is of use."""


@dataclass(frozen=True, slots=True)
class Save(Msg["StoreActor", tuple[Saved, ...]]):
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Touch(Msg["StoreActor", None]):
    """Used again, elsewhere: keep them longer. In prompt order; a prefix outlives its suffix."""

    keys: Keys


@dataclass(frozen=True, slots=True)
class Delete(Msg["StoreActor", int]):
    """Answers how many of them the store had, as far as it knows."""

    keys: Keys


@dataclass(frozen=True, slots=True)
class Measure(Msg["StoreActor", StoreUsage]):
    pass


@dataclass(frozen=True, slots=True)
class Speed:
    """What a load costs now: for a planner. Medians of what was seen; 0 where nothing has been."""

    latency_s: float  # of the smallest load
    bytes_per_s: float  # of all loads together
    queued_bytes: int  # waiting or under way


@dataclass(frozen=True, slots=True)
class MeasureSpeed(Msg["StoreActor", Speed]):
    pass


@dataclass(frozen=True, slots=True)
class ListArenas(Msg["StoreActor", tuple[ArenaUsage, ...]]):
    """Raises NoArenas, as the next three do."""


@dataclass(frozen=True, slots=True)
class AddArena(Msg["StoreActor", tuple[ArenaUsage, ...]]):
    """Keep objects there, too, until the node ends: the configuration is the operator's. Answers all there are."""

    path: str
    size_bytes: int  # of a new file, or of the device's part; 0: as it is


@dataclass(frozen=True, slots=True)
class DrainArena(Msg["StoreActor", tuple[ArenaUsage, ...]]):
    """Move its objects to the other arenas. What they have no room for is evicted, by policy."""

    path: str


@dataclass(frozen=True, slots=True)
class RemoveArena(Msg["StoreActor", tuple[ArenaUsage, ...]]):
    """Let go of one that was drained. Its file stays."""

    path: str


ArenaMessage = ListArenas | AddArena | DrainArena | RemoveArena
Message = Locate | ReadAhead | Load | Save | Touch | Delete | Measure | MeasureSpeed | ArenaMessage
