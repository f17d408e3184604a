"""What nodes tell each other of their chunks, against twins that remember everything; and what is refused, in words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.actors.core.summary import (
    NAME_BYTES,
    ChangeLog,
    Changes,
    Hearing,
    Need,
    Part,
    PeerSummary,
    SendPart,
    Step,
    Update,
)

BACKLOG_BYTES = 60
RECEIVERS = 2
picks = st.integers(0, 1 << 16)


def packed(names: set[int]) -> bytes:
    return b"".join(name.to_bytes(NAME_BYTES, "little") for name in sorted(names))


def unpacked(names: bytes) -> set[int]:
    starts = range(0, len(names), NAME_BYTES)
    return {int.from_bytes(names[at : at + NAME_BYTES], "little") for at in starts}


@dataclass
class Receiver:
    """What it takes for the sender's chunks: a filter's twin, which is exact."""

    summary: PeerSummary = field(default_factory=PeerSummary)
    names: set[int] = field(default_factory=set)
    coming: set[int] = field(default_factory=set)
    watch: int | None = None
    way: list[Update] = field(default_factory=list)  # sent, and not arrived
    resyncs: int = 0

    def hear(self, update: Update) -> None:
        match self.summary.hear(update), update:
            case Step.BEGIN, Part():
                self.coming = unpacked(update.filter)
            case Step.PART, Part():
                self.coming |= unpacked(update.filter)
            case Step.APPLY, Changes():
                self.names = (self.names - unpacked(update.gone)) | unpacked(update.added)
            case Step.RESYNC, _:
                self.names.clear()
                self.resyncs += 1
            case step, _:
                assert step is Step.IGNORE
                return
        if isinstance(update, Part) and self.summary.is_following:
            self.names = self.coming


class SummaryMachine(RuleBasedStateMachine):
    """One sender, some receivers, and ways between them on which anything may be lost, doubled or overtaken."""

    def __init__(self) -> None:
        super().__init__()
        self.there: set[int] = set()
        self.receivers = [Receiver() for _ in range(RECEIVERS)]
        self.sent: dict[tuple[int, int], Changes] = {}  # by log and number
        self.logs = 0
        self.restart()

    @rule(luck=st.integers(0, 9))
    def crash(self, luck: int) -> None:
        """The sender knows none of the watches of its former life."""
        if luck == 0:
            self.restart()

    def restart(self) -> None:
        self.logs += 1
        self.log = ChangeLog(backlog_bytes_max=BACKLOG_BYTES, watchers_max=RECEIVERS)
        self.snapshot: tuple[int, set[int]] | None = None
        self.known: dict[int, set[int]] = {}  # what was there at each number of this log
        for one in self.receivers:
            one.watch = None

    @precondition(lambda self: not self.log.is_open)
    @rule(names=st.sets(st.integers(1, 40), max_size=12))
    def walk(self, names: set[int]) -> None:
        self.log.open()
        self.there = names
        self.known[self.log.sequence] = names

    @precondition(lambda self: self.log.is_open)
    @rule(luck=st.integers(0, 4), names=st.sets(st.integers(1, 40), max_size=12))
    def lose_track(self, luck: int, names: set[int]) -> None:
        if luck == 0:
            self.log.close()
            if len(names) % 2:
                self.walk(names)

    @precondition(lambda self: self.log.is_open)
    @rule(names=st.sets(st.integers(1, 40), min_size=1, max_size=4))
    def change(self, names: set[int]) -> None:
        gone = self.there & names
        update = Changes(self.logs, self.log.sequence, packed(gone), packed(names - gone))
        self.there = self.there ^ names
        self.log.append(update.end, bytes(6 * len(names)))
        self.sent[self.logs, update.first] = update
        self.known[self.log.sequence] = self.there

    @rule(receiver=st.integers(0, RECEIVERS - 1), parts=st.integers(1, 4))
    def send(self, receiver: int, parts: int) -> None:
        """The next update, or that nothing has changed."""
        one = self.receivers[receiver]
        if one.watch is None:
            one.watch = self.log.watch()
            assert one.watch is not None
        assert self.log.knows(one.watch)
        at = self.position(one.watch)
        following = self.log.next_of(one.watch)
        if following is Need.SNAPSHOT:
            self.snapshot = (self.log.sequence, self.there)
            self.log.snapshot_made(parts)
            following = self.log.next_of(one.watch)
        match following:
            case SendPart(sequence, part, count):
                assert self.snapshot is not None
                assert self.snapshot[0] == sequence
                names = {name for name in self.snapshot[1] if name % count == part}
                one.way.append(Part(self.logs, sequence, part, count, packed(names)))
            case bytes():
                assert at is not None
                one.way.append(self.sent[self.logs, at])
            case Need.NOTHING if self.log.is_open:
                one.way.append(Changes(self.logs, self.log.sequence, b"", b""))
        if not self.log.is_snapshot_used and self.snapshot is not None and self.log.is_open:
            self.log.snapshot_dropped()
            self.snapshot = None

    def hear(self, one: Receiver, update: Update) -> None:
        before = one.resyncs
        one.hear(update)
        if one.resyncs > before and one.watch is not None:
            self.log.unwatch(one.watch)
            one.watch = None

    def position(self, watch: int) -> int | None:
        return self.log._watchers[watch].at

    @rule(receiver=st.integers(0, RECEIVERS - 1), pick=picks, again=st.booleans())
    def arrive(self, receiver: int, pick: int, again: bool) -> None:
        """Any of those under way, the first ones more often; `again`: it will arrive once more."""
        one = self.receivers[receiver]
        if one.way:
            place = min(pick % 4, pick % len(one.way))
            self.hear(one, one.way[place])
            if not again:
                del one.way[place]

    @precondition(lambda self: any(one.way for one in self.receivers))
    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        ways = [one.way for one in self.receivers if one.way]
        way = ways[pick % len(ways)]
        del way[pick % len(way)]

    @rule(receiver=st.integers(0, RECEIVERS - 1), parts=st.integers(1, 4))
    def flow(self, receiver: int, parts: int) -> None:
        """A quiet while: some updates arrive as they are sent."""
        one = self.receivers[receiver]
        for _ in range(parts + 1):
            self.send(receiver, parts)
            while one.way:
                self.hear(one, one.way.pop(0))

    @rule(receiver=st.integers(0, RECEIVERS - 1), luck=st.integers(0, 4))
    def begin_anew(self, receiver: int, luck: int) -> None:
        """A link is lost, and made again."""
        if luck:
            return
        one = self.receivers[receiver]
        if one.watch is not None:
            self.log.unwatch(one.watch)
        one.watch = None
        one.way.clear()
        one.summary.reset()
        one.names.clear()

    @invariant()
    def whoever_follows_knows_what_was_there(self) -> None:
        """A twin remembers what was there at each number: nobody puts together what does not belong together."""
        self.log.validate()
        for one in self.receivers:
            one.summary.validate()
            summary = one.summary
            if summary.is_following and summary._log == self.logs:
                assert one.names == self.known[summary._next]

    def teardown(self) -> None:
        """Then the ways are healed, and everybody comes to know everything, soon."""
        if not self.log.is_open:
            self.walk({7, 9})
        for receiver, one in enumerate(self.receivers):
            one.way.clear()
            for _ in range(12):
                if one.watch is not None and not self.log.knows(one.watch):
                    one.watch = None
                self.send(receiver, 3)
                self.hear(one, one.way.pop())
            assert one.summary.is_following
            assert one.names == self.there


TestSummary = SummaryMachine.TestCase
TestSummary.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


# ---------------------------------------------------------------- in words

PART = Part(log=5, sequence=10, part=0, parts=1, filter=b"")
NAMES = bytes(3 * NAME_BYTES)


def following() -> PeerSummary:
    summary = PeerSummary()
    assert summary.hear(PART) is Step.BEGIN
    assert summary.is_following
    return summary


@pytest.mark.parametrize(
    ("update", "step"),
    [
        (Changes(5, 10, b"", NAMES), Step.APPLY),
        (Changes(5, 10, b"", b""), Step.IGNORE),  # nothing has changed
        (Changes(5, 9, b"", b""), Step.IGNORE),  # nothing had, once
        (Changes(5, 7, NAMES, b""), Step.IGNORE),  # it is in the snapshot
        (Changes(5, 9, NAMES, b""), Step.RESYNC),  # half of it is
        (Changes(5, 11, NAMES, b""), Step.RESYNC),  # a change is missing
        (Changes(5, 11, b"", b""), Step.RESYNC),  # the log is longer than what came
        (Changes(6, 10, b"", NAMES), Step.RESYNC),  # another life of the sender
        (PART, Step.IGNORE),
        (replace(PART, sequence=9), Step.IGNORE),
        (replace(PART, sequence=11), Step.BEGIN),
        (replace(PART, log=6), Step.BEGIN),
        (replace(PART, sequence=11, part=1), Step.RESYNC),  # a part that there cannot be
        (replace(PART, sequence=11, parts=1 << 20), Step.RESYNC),
    ],
)
def test_what_comes_next_is_taken_and_what_does_not_fit_is_not(update: Update, step: Step) -> None:
    summary = following()
    assert summary.hear(update) is step
    assert (summary.state is Hearing.EMPTY) == (step is Step.RESYNC)


def test_changes_before_the_snapshot_is_whole_are_of_no_use_unless_they_are_in_it() -> None:
    summary = PeerSummary()
    assert summary.hear(Changes(5, 1, b"", NAMES)) is Step.RESYNC
    assert summary.hear(replace(PART, parts=2)) is Step.BEGIN
    assert summary.hear(Changes(5, 7, b"", NAMES)) is Step.IGNORE
    assert summary.hear(replace(PART, parts=2)) is Step.IGNORE
    assert summary.hear(Changes(5, 10, b"", NAMES)) is Step.RESYNC
    assert summary.hear(replace(PART, parts=2, part=1)) is Step.BEGIN
    assert summary.hear(Changes(5, 9, b"", b"")) is Step.IGNORE
    assert summary.hear(Changes(5, 10, b"", b"")) is Step.RESYNC, (
        "all was sent, and a part is missing"
    )
    assert summary.hear(replace(PART, parts=2, part=1)) is Step.BEGIN
    assert summary.hear(replace(PART, parts=3, part=2)) is Step.RESYNC


def test_a_slow_watcher_gets_a_snapshot_and_costs_no_more_than_the_backlog() -> None:
    log = ChangeLog(backlog_bytes_max=100, watchers_max=2)
    log.open()
    slow, quick = log.watch(), log.watch()
    assert slow is not None
    assert quick is not None
    assert log.watch() is None
    for watch in (slow, quick):
        if log.next_of(watch) is Need.SNAPSHOT:
            log.snapshot_made(1)
            assert log.next_of(watch) == SendPart(2, 0, 1)
    for _ in range(10):
        log.append(log.sequence + 2, bytes(30))
        log.validate()
        assert log.next_of(quick) == bytes(30)
        assert log.next_of(quick) is Need.NOTHING
    assert log.backlog_bytes == 90
    assert log.next_of(slow) is Need.SNAPSHOT
    log.snapshot_made(2)
    assert log.next_of(slow) == SendPart(log.sequence, 0, 2)
    assert log.next_of(slow) == SendPart(log.sequence, 1, 2)
    assert log.next_of(slow) is Need.NOTHING
    assert not log.is_snapshot_used
    log.snapshot_dropped()
    log.append(log.sequence + 1, bytes(101))
    assert log.backlog_bytes == 0, "a change too large to keep is told by a snapshot"
    assert log.next_of(quick) is Need.SNAPSHOT


def test_a_snapshot_that_the_log_does_not_reach_back_to_is_begun_anew() -> None:
    log = ChangeLog(backlog_bytes_max=100, watchers_max=1)
    log.open()
    watch = log.watch()
    assert watch is not None
    assert log.next_of(watch) is Need.SNAPSHOT
    log.snapshot_made(3)
    assert log.next_of(watch) == SendPart(2, 0, 3)
    for _ in range(4):
        log.append(log.sequence + 1, bytes(50))
    assert log.next_of(watch) is Need.SNAPSHOT
    log.snapshot_made(2)
    assert log.next_of(watch) == SendPart(6, 0, 2)
    log.close()
    assert log.next_of(watch) is Need.NOTHING
    log.open()
    assert log.next_of(watch) is Need.SNAPSHOT
