"""What two nodes say to each other in the handshake of a link, which bounds it has, and whose life is over."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.actors.api.peers import LinkLimits
from penstock.actors.api.types import Epoch

PROTOCOL_VERSION = 1
NONCE_BYTES = 32
EPOCH_BYTES = 16
LINK_ID_BYTES = 16
SECRET_BYTES = 32
CHANNELS_MAX = 8
KIND_CHARS_MAX = 16
OFFER_BYTES_MAX = 4096
READ_BYTES_MIN = 4096
MESSAGE_BYTES_MIN = 64 * 1024
_NODE_ID = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class Refusal(enum.Enum):
    """Why a link came to nothing, or to its end."""

    MALFORMED = "malformed"
    OUT_OF_TURN = "out_of_turn"
    REPLAYED = "replayed"
    WRONG_VERSION = "wrong_version"
    WRONG_NODE = "wrong_node"  # another one than was to be spoken to
    NOT_ITS_NAME = "not_its_name"  # its certificate says otherwise
    OLD_EPOCH = "old_epoch"
    TOO_MANY = "too_many"
    LATE = "late"
    SILENT = "silent"
    TOLD = "told"  # the other side has refused, and said why
    ENDED = "ended"  # by the other side, or by this one in order


@dataclass(frozen=True, slots=True)
class Over:
    """The end of a session. `reason` is one sentence, and may be told to the other side."""

    refusal: Refusal
    reason: str


@dataclass(frozen=True, slots=True)
class Offered:
    """One kind of data channel that a side has, and how it is dialled."""

    kind: str
    offer: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hello:
    nonce: bytes
    own_nonce: bytes
    node_id: str
    epoch: Epoch
    listener_id: str
    protocol_version: int
    channels: tuple[Offered, ...]


@dataclass(frozen=True, slots=True)
class Pace:
    """Of heartbeats, each way."""

    every_s: float
    missed_max: int  # who is silent for so many of them has lost the link

    @property
    def silent_s_max(self) -> float:
        return self.every_s * self.missed_max


@dataclass(frozen=True, slots=True)
class Welcome:
    own_nonce: bytes
    node_id: str
    epoch: Epoch
    link_id: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    channels: tuple[Offered, ...]
    pace: Pace
    limits: LinkLimits


@dataclass(frozen=True, slots=True)
class Me:
    """This node, and this life of it."""

    node_id: str
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a listener has drawn for one link; nobody can guess it."""

    nonce: bytes
    link_id: bytes = field(repr=False)
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a listener says in its Welcome, whoever it is."""

    channels: tuple[Offered, ...]
    pace: Pace
    limits: LinkLimits


class Lives:
    """Which life of each other node is the present one, and some that are over. Shared by all sessions of a node."""

    FORMER_MAX = 8  # remembered of each node

    def __init__(self, *, nodes_max: int) -> None:
        self._nodes_max = nodes_max
        self._present: dict[str, Epoch] = {}  # longest known first; len <= nodes_max
        self._former: dict[str, list[Epoch]] = {}  # of those, oldest first

    def present(self, node_id: str) -> Epoch | None:
        return self._present.get(node_id)

    def is_former(self, node_id: str, epoch: Epoch) -> bool:
        return epoch in self._former.get(node_id, ())

    def enter(self, node_id: str, epoch: Epoch) -> Epoch | None:
        """This life is the present one, which `is_former` does not say of it. The one before it, if that has ended by
        this."""
        before = self._present.get(node_id)
        if before == epoch:
            return None
        if before is not None:
            former = self._former.setdefault(node_id, [])
            former.append(before)
            del former[: -self.FORMER_MAX]
        elif len(self._present) >= self._nodes_max:
            oldest = next(iter(self._present))
            del self._present[oldest]
            self._former.pop(oldest, None)
        self._present[node_id] = epoch
        return before

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert len(self._present) <= self._nodes_max
        for node_id, former in self._former.items():
            assert node_id in self._present, "former lives of a node that is not known"
            assert len(former) <= self.FORMER_MAX
            assert self._present[node_id] not in former, "a life that is over and is not"


def malformed(said: Hello | Welcome) -> str | None:
    """What is out of its bounds; None: nothing."""
    sizes = [("own_nonce", said.own_nonce, NONCE_BYTES), ("epoch", said.epoch, EPOCH_BYTES)]
    names = [("node_id", said.node_id)]
    if isinstance(said, Hello):
        sizes.append(("nonce", said.nonce, NONCE_BYTES))
        names.append(("listener_id", said.listener_id))
    else:
        sizes += [("link_id", said.link_id, LINK_ID_BYTES), ("secret", said.secret, SECRET_BYTES)]
    for name, value, size in sizes:
        if len(value) != size:
            return f"{name} has {size} bytes, not {len(value)}"
    for name, text in names:
        if _NODE_ID.fullmatch(text) is None:
            return f"{name} is no name of a node"
    if (problem := _malformed_channels(said.channels)) is not None:
        return problem
    return None if isinstance(said, Hello) else _malformed_terms(said.pace, said.limits)


def _malformed_channels(channels: Sequence[Offered]) -> str | None:
    if len(channels) > CHANNELS_MAX:
        return f"{len(channels)} channels, {CHANNELS_MAX} are the most"
    for one in channels:
        if len(one.kind) > KIND_CHARS_MAX or len(one.offer) > OFFER_BYTES_MAX:
            return "a channel whose kind or offer is too long"
    return None


def _malformed_terms(pace: Pace, limits: LinkLimits) -> str | None:
    if not 0.001 <= pace.every_s <= 86_400 or not 1 <= pace.missed_max <= 1000:
        return "heartbeats out of their bounds"
    least = (
        *(limits.reads_max, limits.read_objects_max),
        *(limits.read_bytes_max // READ_BYTES_MIN, limits.message_bytes_max // MESSAGE_BYTES_MIN),
    )
    return "limits that nothing fits in" if min(least) < 1 else None
