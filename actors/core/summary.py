"""What nodes tell each other of the chunks they have, in order: a snapshot, and numbered changes behind it.

The sender keeps one log for all who watch it, and each of them a place in it:

    WAITING for a snapshot --all its parts--> at a number of the log --> ... --> at the end of it
         ^                                            |
         '---- the log does not reach back so far, or was begun anew

A receiver knows what the sender knew at some number of its log, or nothing:

    EMPTY --a part--> GATHERING --the last part--> FOLLOWING --changes that come next--> FOLLOWING
      ^                   |                            |  '--a part of a later snapshot--> GATHERING
      '-------------------'----------------------------'-- a gap, another log, anything wrong: RESYNC

Whatever is lost, doubled or out of turn on the way, a receiver never takes changes for which it lacks an earlier one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

NAME_BYTES = 8
PARTS_MAX = 65536
NAMES_MAX = 4096  # of one update of changes: a filter that is nearly full takes 5 us for each


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a snapshot: all changes below `sequence` are in it, and no others."""

    log: int
    sequence: int
    part: int
    parts: int
    filter: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes `first`, `first + 1`, ... of a log. None of them: the log ends before `first`."""

    log: int
    first: int
    gone: bytes = field(repr=False)  # packed names
    added: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """The number of the change that comes next."""
        return self.first + (len(self.gone) + len(self.added)) // NAME_BYTES


Update = Part | Changes


# ---------------------------------------------------------------- receiving


class Step(enum.Enum):
    """What a receiver does with an update."""

    IGNORE = "it is known"
    BEGIN = "the first part that came of a new snapshot"
    PART = "another part of it"
    APPLY = "the changes that come next"
    RESYNC = "something is missing: forget what this peer said, and have it begin anew"


class Hearing(enum.Enum):
    EMPTY = "nothing is known"
    GATHERING = "parts of a snapshot are"
    FOLLOWING = "all is, up to the next change"


class PeerSummary:
    """The order of what one peer tells. The filter itself is kept by whoever asks `hear` what to do."""

    def __init__(self) -> None:
        self.state = Hearing.EMPTY
        self._log = 0
        self._next = 0  # FOLLOWING: the number of the change that comes next; GATHERING: then
        self._parts = 0  # of the snapshot
        self._seen: set[int] = set()  # GATHERING: parts that came, fewer than _parts

    @property
    def is_following(self) -> bool:
        return self.state is Hearing.FOLLOWING

    def hear(self, update: Update) -> Step:
        """Decide, and count it as done: whoever cannot do it says so with `reset`."""
        step = self._part(update) if isinstance(update, Part) else self._changes(update)
        if step is Step.RESYNC:
            self.reset()
        return step

    def reset(self) -> None:
        """Nothing is known any more."""
        self.state = Hearing.EMPTY
        self._seen.clear()

    def _part(self, part: Part) -> Step:
        if not 0 <= part.part < part.parts <= PARTS_MAX:
            return Step.RESYNC
        if self.state is not Hearing.EMPTY and part.log == self._log:
            if self.is_following and part.sequence <= self._next:
                return Step.IGNORE
            if self.state is Hearing.GATHERING and part.sequence < self._next:
                return Step.IGNORE
            if self.state is Hearing.GATHERING and part.sequence == self._next:
                return self._another_part(part)
        self.state = Hearing.GATHERING
        self._log, self._next, self._parts = part.log, part.sequence, part.parts
        self._seen = set()
        self._gather(part.part)
        return Step.BEGIN

    def _another_part(self, part: Part) -> Step:
        if part.parts != self._parts:
            return Step.RESYNC
        if part.part in self._seen:
            return Step.IGNORE
        self._gather(part.part)
        return Step.PART

    def _gather(self, part: int) -> None:
        self._seen.add(part)
        if len(self._seen) == self._parts:
            self.state = Hearing.FOLLOWING
            self._seen.clear()

    def _changes(self, changes: Changes) -> Step:
        if self.state is Hearing.EMPTY or changes.log != self._log:
            return Step.RESYNC
        if self.state is Hearing.GATHERING:
            is_later = changes.end > self._next or changes.first == self._next
            return Step.RESYNC if is_later else Step.IGNORE  # parts are sent before what follows
        if changes.end <= self._next:
            return Step.IGNORE
        if changes.first != self._next:
            return Step.RESYNC
        self._next = changes.end
        return Step.APPLY

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        if self.state is Hearing.GATHERING:
            assert 0 < len(self._seen) < self._parts
        else:
            assert not self._seen


# ---------------------------------------------------------------- sending


@dataclass(frozen=True, slots=True)
class SendPart:
    """This part of the snapshot."""

    sequence: int
    part: int
    parts: int


class Need(enum.Enum):
    NOTHING = "all that there is was sent"
    SNAPSHOT = "of what there is now: make one, say `snapshot_made`, and ask again"


@dataclass(slots=True)
class _Watcher:
    at: int | None = None  # the number of the next change to be sent; None: a snapshot
    snapshot: int | None = None  # the sequence of the one that is being sent
    part: int = 0  # of it, the next


@dataclass(frozen=True, slots=True)
class _Entry:
    end: int
    update: bytes


class ChangeLog:
    """Who is told what next. Updates are kept as they go over the wire, once for all.

    `backlog_bytes_max`: of updates; beyond it the oldest go, and whoever has not had them gets a snapshot.
    """

    def __init__(self, *, backlog_bytes_max: int, watchers_max: int) -> None:
        self.sequence = 1  # the number of the next change
        self.is_open = False  # what there is is known
        self._backlog_bytes_max = backlog_bytes_max
        self._watchers_max = watchers_max
        self._entries: dict[int, _Entry] = {}  # by their first number, oldest first, without gaps
        self._bytes = 0
        self._snapshot: tuple[int, int] | None = None  # (sequence, parts) of the one there is
        self._watchers: dict[int, _Watcher] = {}
        self._watches = 0  # that ever were

    # What there is.

    def open(self) -> None:
        """All that there is is known now, and nobody who watches knows it."""
        assert not self.is_open
        self.sequence += 1  # so that no place in the former log is one in this
        self.is_open = True

    def close(self) -> None:
        """It is not known (any more). Idempotent."""
        self.is_open = False
        self._entries.clear()
        self._bytes = 0
        self._snapshot = None

    def append(self, end: int, update: bytes) -> None:
        """Changes from `sequence` up to `end`."""
        assert self.is_open, "append to a log that is open"
        assert end > self.sequence, "an update of no changes"
        self._entries[self.sequence] = _Entry(end, update)
        self._bytes += len(update)
        self.sequence = end
        while self._bytes > self._backlog_bytes_max:
            self._bytes -= len(self._entries.pop(next(iter(self._entries))).update)

    @property
    def backlog_bytes(self) -> int:
        return self._bytes

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    # Who watches.

    def watch(self) -> int | None:
        """The number of a new watch; None: there are as many as there may be."""
        if len(self._watchers) >= self._watchers_max:
            return None
        self._watches += 1
        self._watchers[self._watches] = _Watcher()
        return self._watches

    def unwatch(self, watch: int) -> None:
        self._watchers.pop(watch, None)

    def knows(self, watch: int) -> bool:
        return watch in self._watchers

    def next_of(self, watch: int) -> bytes | SendPart | Need:
        """What goes to this watcher next, which counts as sent."""
        watcher = self._watchers[watch]
        if not self.is_open:
            return Need.NOTHING
        if watcher.at is not None and watcher.at < self._oldest:
            watcher.at = None
        if watcher.at is None:
            return self._next_part(watcher)
        if watcher.at == self.sequence:
            return Need.NOTHING
        entry = self._entries[watcher.at]
        watcher.at = entry.end
        return entry.update

    def snapshot_made(self, parts: int) -> None:
        """Of what there is at `sequence`."""
        assert self.is_open
        self._snapshot = (self.sequence, parts)

    def snapshot_dropped(self) -> None:
        """There is none any more; nobody was being sent it."""
        assert not self.is_snapshot_used
        self._snapshot = None

    @property
    def is_snapshot_used(self) -> bool:
        """Whether somebody is being sent the snapshot that there is."""
        held = None if self._snapshot is None else self._snapshot[0]
        return held is not None and any(one.snapshot == held for one in self._watchers.values())

    @property
    def _oldest(self) -> int:
        """The first change that there is, or the next one."""
        return next(iter(self._entries), self.sequence)

    def _next_part(self, watcher: _Watcher) -> SendPart | Need:
        if self._snapshot is None or self._snapshot[0] < self._oldest:
            return Need.SNAPSHOT
        sequence, parts = self._snapshot
        if watcher.snapshot != sequence:  # the first, or the one before it is of no use any more
            watcher.snapshot, watcher.part = sequence, 0
        sent = SendPart(sequence, watcher.part, parts)
        watcher.part += 1
        if watcher.part == parts:
            watcher.at, watcher.snapshot, watcher.part = sequence, None, 0
        return sent

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert self._bytes == sum(len(one.update) for one in self._entries.values())
        assert self._bytes <= self._backlog_bytes_max
        assert len(self._watchers) <= self._watchers_max
        end = self._oldest
        for first, entry in self._entries.items():
            assert first == end
            end = entry.end
        assert end == self.sequence
        assert self.is_open or (not self._entries and self._snapshot is None)
        for one in self._watchers.values():
            assert one.at is None or one.at <= self.sequence
            assert one.at is None or one.snapshot is None
