"""Who has what: what this node tells its peers of its L1, and what they have told it of theirs.

The directory is approximate. A promise may be wrong (about one in five hundred chunks that a peer has not, and whatever
it has lost in the last fraction of a second), which costs a read that finds nothing.

    to a peer      Watch -> NextUpdate ... -> Unwatch          its updates go over the wire as they are
    from a peer    PeerUpdate ... -> PeerGone
    a load         Promised
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

from penstock.runtime.actor import Actor
from penstock.runtime.errors import CapacityError, StaleError
from penstock.runtime.message import Msg

UPDATE_BYTES_MAX = (1 << 20) + 1024
"""Of one update on the wire: a part of a filter, and what is around it."""

WatchId = NewType("WatchId", int)
"""One peer's watch of this node, numbered by the directory. A directory that restarts knows none of the former."""


class Directory(Actor["Message"]):
    """Address of the directory. A node that stands alone has none."""


class WatchOver(StaleError):
    """Nobody's: the directory knows no such watch (any more). The peer begins another one."""


class TooManyWatches(CapacityError):
    """Nobody's: as many peers as there may be watch this node already (`cluster.directory.watchers_max`)."""


class Promise(NamedTuple):
    """`chunks` in a row, from the first that was asked for, are in this node's L1 as far as one knows."""

    node_id: str
    chunks: int  # 1 or more


@dataclass(frozen=True, slots=True)
class Promised(Msg["Directory", tuple[Promise, ...]]):
    """Which peers say yes to the chunk at `first_chunk`, and to how many from there on: the longest run first, and at
    equal length in an order that differs between chunks and nodes, so that not all ask one. `keys` are packed: a whole
    prompt's, or a part's. Answered at once: `ask_now` is NOT_AT_ONCE only while the directory is busy or restarted."""

    keys: bytes = field(repr=False)
    first_chunk: int = 0


# ---------------------------------------------------------------- from peers


class Heard(enum.Enum):
    """What became of an update."""

    KEPT = "go on"
    RESYNC = "something is missing or wrong: end this watch and begin another, each time after a longer pause"
    NO_ROOM = "no room is left within bytes_max: end this watch, and try again after cluster.directory.retry"


@dataclass(frozen=True, slots=True)
class PeerUpdate(Msg["Directory", Heard]):
    """An update of this peer's, in the order of its watch. Another epoch than before: all it said is forgotten."""

    node_id: str
    epoch: bytes
    update: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerGone(Msg["Directory", None]):
    """Nothing can be read from this peer any more: it promises nothing."""

    node_id: str


# ---------------------------------------------------------------- to peers


@dataclass(frozen=True, slots=True)
class Watch(Msg["Directory", WatchId]):
    """A peer wants to know what this node has. Its first updates are a snapshot; a former watch of its is over. Raises
    TooManyWatches."""

    node_id: str


@dataclass(frozen=True, slots=True)
class NextUpdate(Msg["Directory", bytes]):
    """The next update of this watch: as soon as there is one, or after `within_s` one that says that nothing changed.
    One at a time for each watch. Empty: within that time the directory did not come to know what this node has.
    Raises WatchOver."""

    watch: WatchId
    within_s: float


@dataclass(frozen=True, slots=True)
class Unwatch(Msg["Directory", None]):
    """The peer does not listen any more."""

    watch: WatchId


@dataclass(frozen=True, slots=True)
class Changed(Msg["Directory", None]):
    """Which chunks are in L1 has changed. Told once, until the changes are taken (`l1_contents.TakeChanges`)."""


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True, slots=True)
class PeerMeasure:
    node_id: str
    keys: int
    summary_bytes: int
    is_following: bool  # its snapshot is whole, and no change was missed


@dataclass(frozen=True, slots=True)
class DirectoryMeasure:
    """Levels now, and counters of this life of the actor."""

    own_keys: int
    own_bytes: int
    is_own_known: bool  # what L1 has has been gone through, and is followed
    sequence: int  # of changes told
    backlog_bytes: int
    watchers: int
    peers: tuple[PeerMeasure, ...]  # by id
    peers_bytes: int  # of at most bytes_max
    bytes_max: int
    resyncs: int  # of what peers told
    refused: int  # snapshots of peers that there was no room for
    dropped: tuple[str, ...]  # peers that there is no room for now, by id


@dataclass(frozen=True, slots=True)
class Measure(Msg["Directory", DirectoryMeasure]):
    pass


Message = Promised | PeerUpdate | PeerGone | Watch | NextUpdate | Unwatch | Changed | Measure
