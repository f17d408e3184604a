"""The loads of the prefetcher: each is one call of one store, into extents of one lease, for all who wait for it.

    reserved -> the store reads and verifies -> landed: its tickets may read -> kept: resident, below a watermark
        |              |                            |
        '--------------'----------------------------'--> dropped: with the lease's last handle

Memory goes back only by that handle, which whoever may still write holds too. A load that was given up leaves the
index at once, so that its objects can be loaded from elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from anyio import CancelScope, move_on_after
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_loading, store
from penstock.actors.api.types import NODE_SESSION, LeaseId, TicketId
from penstock.actors.core.load_plan import Part
from penstock.actors.core.load_records import Name, Record, Records, Stage
from penstock.actors.prefetch_metrics import PrefetchMetrics
from penstock.actors.room import Room
from penstock.runtime.errors import PenstockError, forget_frames
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.message import NOT_AT_ONCE
from penstock.runtime.ref import Ref

NO_LEASE = LeaseId(b"")
_DIGEST = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Tier:
    """One store below L1."""

    name: str
    ref: Ref[store.StoreActor]
    is_kept: bool  # what is loaded from it becomes resident; otherwise it goes with its last reader
    locate_s: float
    load_s: float


class Waiting(Protocol):
    """What loads tell a ticket that waits for them."""

    limit_chunks: int  # up to here it waits for the load of every object it needs

    def lost(self, tier: int, name: Name, chunk: int) -> None:
        """This object will not come from this tier; a number beyond theirs: nobody is bringing it any more, and any of
        them may still have it. It need not be of the ticket's prompt: only the begin of a load may be."""

    def moved(self, hit_chunks: int) -> None:
        """Its watermark, as it is now; -1: the ticket is over."""

    def has_passed(self, name: Name, chunk: int) -> bool:
        """Whether the object is of the ticket's prompt, and below its watermark."""


@dataclass(slots=True, eq=False)
class Load:
    """A record, and what it takes to carry it out. `indices` are those of the lease's answers, as `record.places`."""

    record: Record
    ticket: TicketId  # that began it
    lease: LeaseId
    hold: object
    indices: tuple[int, ...]
    ask: type[store.Load]
    targets: tuple[store.Target, ...]
    payload_bytes: int
    has_room: bool = False  # taken already
    ahead: store.Ahead | None = None  # its reads, if they are under way
    scope: CancelScope = field(default_factory=CancelScope)
    over: asyncio.Event = field(default_factory=asyncio.Event)  # landed, or lost
    landed: dict[int, None] = field(
        default_factory=dict
    )  # positions in `places`, ascending: LOADED, not kept

    def take_ahead(self) -> store.Ahead | None:
        """For the load itself."""
        ahead, self.ahead = self.ahead, None
        return ahead


@dataclass(slots=True, eq=False)
class First:
    """A ticket's first load, under way as far as it can be before anything else is done for the ticket."""

    part: Part
    lease: l1_loading.LoadLease
    targets: tuple[store.Target, ...]  # all that `lease` has granted, which is all of the part
    has_room: bool  # at its tier, to be given back
    ahead: store.Ahead | None  # its reads, if they are under way


class Loads:
    """Carries loads out. Belongs to the prefetcher."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        manager: Ref[l1.L1Manager],
        *,
        inflight_bytes_max: int,
        ask_s: float,
        head_start_s: float,
        start_soon: Callable[..., None],
        metrics: PrefetchMetrics,
    ) -> None:
        self.records = Records()
        part_bytes = inflight_bytes_max // max(1, len(tiers))  # a tier that hangs keeps no other's
        self.rooms = tuple(Room(part_bytes) for _ in tiers)
        self.waiting: dict[TicketId, Waiting] = {}
        self._tiers = tiers
        self._l1 = manager
        self._ask_s = ask_s
        self._head_start_s = head_start_s
        self._start_soon = start_soon
        self._metrics = metrics
        self._loads: dict[Record, Load] = {}  # of all records in the book
        self._ahead: dict[TicketId, asyncio.Event] = {}  # set when its first load is over
        self._log = Log("prefetcher")

    @property
    def inflight_bytes(self) -> int:
        return sum(room.taken_bytes for room in self.rooms)

    def begin(
        self,
        ticket: TicketId,
        tier: int,
        deadline: float,
        *,
        names: Sequence[Name],
        places: Sequence[tuple[int, int]],
        lease: l1_loading.LoadLease,
        indices: Sequence[int],
        ask: type[store.Load],
        targets: Sequence[store.Target],
        first: First | None = None,
    ) -> None:
        """Load these objects, which `lease` has granted, from a tier. `ask`: as a prefix, or each by itself. `first`:
        the same, if it is under way."""
        record = self.records.open(tier, names, places, ticket, deadline)
        payload_bytes = sum(target.logical_bytes for target in targets)
        load = Load(
            record,
            ticket,
            lease.lease,
            lease.hold,
            tuple(indices),
            ask,
            tuple(targets),
            payload_bytes,
        )
        load.scope.deadline = deadline
        self._loads[record] = load
        if first is not None:
            load.has_room, load.ahead = first.has_room, first.ahead
        elif ticket not in self._ahead:
            load.has_room, load.ahead = self._read_ahead(tier, load.targets, payload_bytes)
        self._ahead.setdefault(ticket, load.over)
        self._start_soon(self._run, load, name="load")

    def begin_first(
        self, part: Part, lease: l1_loading.LoadLease, targets: tuple[store.Target, ...]
    ) -> First:
        """Before all else for a ticket; to be carried on by `begin`, in the same step."""
        payload_bytes = sum([target.logical_bytes for target in targets])
        has_room, ahead = self._read_ahead(part.source, targets, payload_bytes)
        return First(part, lease, targets, has_room, ahead)

    def _read_ahead(
        self, tier: int, targets: tuple[store.Target, ...], payload_bytes: int
    ) -> tuple[bool, store.Ahead | None]:
        """The disk need not wait for the turns of the loop that a load takes to reach its store. Whether the load has
        its room, and its reads."""
        if not self.rooms[tier].take_now(payload_bytes):
            return False, None
        with suppress(PenstockError):  # the load itself hears why
            ahead = self._tiers[tier].ref.ask_now(store.ReadAhead(targets))
            if ahead is not NOT_AT_ONCE:
                return True, ahead
        return True, None

    def is_ahead(self, ticket: TicketId) -> bool:
        """Whether the ticket's first load has its head start now."""
        ahead = self._ahead.get(ticket)
        return ahead is not None and not ahead.is_set()

    async def wait_ahead(self, ticket: TicketId) -> None:
        """A turn of the loop; while the ticket's first load is under way a head start for it: side by side, on a disk,
        all would come at the end, and what is planned meanwhile would hold up the news of it."""
        ahead = self._ahead.get(ticket)
        if ahead is None or ahead.is_set():
            await checkpoint()
            return
        with move_on_after(self._head_start_s):
            await ahead.wait()
        ahead.set()  # there is one head start

    def join(self, record: Record, ticket: TicketId, deadline: float) -> None:
        """Another ticket waits for this load."""
        self.records.join(record, ticket, deadline)
        self._loads[record].scope.deadline = record.deadline

    def leave(self, ticket: TicketId, records: Iterable[Record]) -> None:
        """The ticket waits for these no more. What nobody waits for ends; what its watermark has passed is kept."""
        self._ahead.pop(ticket, None)
        records = [*records]
        for record in records:
            self._keep(self._loads[record], [self.waiting[ticket]])
        for record in self.records.leave(ticket, records):
            self._drop(record)

    async def move(self, ticket: TicketId) -> None:
        """The ticket has joined what had landed before."""
        waiting = self.waiting[ticket]
        ask = l1_loading.Move(((ticket, waiting.limit_chunks),))
        (hit,) = await self._l1.ask(ask, within=self._ask_s)
        waiting.moved(hit)
        self.keep(ticket)

    def keep(self, ticket: TicketId) -> None:
        """What a watermark has passed becomes resident, if it comes from a tier for which that is wanted.

        Not in the ticket's own task: that may be given up now, and what was passed is kept all the same."""
        for record in self.records.of(ticket):
            self._keep(self._loads[record], [self.waiting[ticket]])

    def _keep(self, load: Load, waiting: Iterable[Waiting]) -> None:
        passed = self._passed(load, waiting)
        for place in passed:
            del load.landed[place]  # once is enough
        if passed:
            self._start_soon(self._commit, load, passed, load.hold, name="keep")

    def _passed(self, load: Load, waiting: Iterable[Waiting]) -> tuple[int, ...]:
        """Positions of what has landed, is to be kept, and lies below one of these watermarks.

        Of what has landed only the begin can be passed: a watermark is below all later chunks, and prompts that have
        parted have nothing in common any more. So it costs what is new."""
        record = load.record
        if not load.landed or not self._tiers[record.tier].is_kept:
            return ()
        waiting = [*waiting]
        passed = itertools.takewhile(
            lambda place: any(
                one.has_passed(record.names[place], record.places[place][0]) for one in waiting
            ),
            load.landed,
        )
        return tuple(passed)

    def _drop(self, record: Record) -> None:
        load = self._loads.pop(record)
        load.scope.cancel()
        load.hold = None  # its memory comes back when nothing writes into it any more

    async def _run(self, load: Load) -> None:
        hold = load.hold  # until L1 has been told, whoever leaves meanwhile
        answers: tuple[store.Loaded, ...] = ()
        try:
            with load.scope:
                answers = await self._ask_store(load)
            load.targets = ()
            await hazard("prefetch.after_load")
            await self._land(load, answers, hold)
        finally:
            load.over.set()

    async def _ask_store(self, load: Load) -> tuple[store.Loaded, ...]:
        """Empty when the store gave no answer: then it may still be writing."""
        tier = self._tiers[load.record.tier]
        room = self.rooms[load.record.tier]
        if not load.has_room:
            await room.take(load.payload_bytes, load.ticket)
        try:
            await hazard("prefetch.before_load")
            ask = load.ask(load.targets, load.take_ahead())
            answers = await tier.ref.ask(ask, within=tier.load_s)
        except PenstockError as refusal:
            self._log.warning_once("load_failed", tier.name, store=tier.name, reason=str(refusal))
            refusal.with_traceback(None)  # its frames hold the message, and so the lease
            return ()
        finally:
            room.give_back(load.payload_bytes)
        return answers

    async def _land(self, load: Load, answers: Sequence[store.Loaded], hold: object) -> None:
        record = load.record
        good = [
            place
            for place, answer in enumerate(answers)
            if answer.outcome is store.LoadOutcome.LOADED and record.stage is Stage.LOADING
        ]
        told = [(ticket, self.waiting[ticket]) for ticket in record.tickets]
        named = tuple((ticket, waiting.limit_chunks) for ticket, waiting in told)
        landed = await self._tell_l1(load, answers, good, named)
        load.landed = dict.fromkeys(good if landed.lease else ())
        load.lease, load.hold = landed.lease, landed.hold or hold
        if landed.hits:
            for (_, waiting), hit in zip(told, landed.hits, strict=True):
                waiting.moved(hit)
        lost = [place for place in range(len(record.places)) if place not in load.landed]
        skipped = _skipped(answers)
        tier = self._tiers[record.tier].name
        self._metrics.loaded(tier, len(load.landed), len(lost) - len(skipped))
        if (
            record.stage is Stage.OVER
        ):  # the last one left while L1 was told, and may have heard of it before us
            self._keep(load, [waiting for _, waiting in told])
            load.hold = None
            return
        self.records.land(record, [record.names[place] for place in lost])
        tickets = [*record.tickets]
        if not load.landed:
            self._close(load)
        for place in lost:
            source = len(self._tiers) if place in skipped else record.tier
            for ticket in tickets:
                self.waiting[ticket].lost(source, record.names[place], record.places[place][0])
        await self._move_on(tickets, {ticket for ticket, _ in told})

    async def _move_on(self, tickets: Iterable[TicketId], told: set[TicketId]) -> None:
        """Keep what they have passed; one that joined while L1 was told is moved first."""
        for ticket in tickets:
            if ticket not in self.waiting:
                continue
            if ticket in told:
                self.keep(ticket)
                continue
            with suppress(PenstockError):  # then it looks again before it gives up
                await self.move(ticket)

    async def _tell_l1(
        self,
        load: Load,
        answers: Sequence[store.Loaded],
        good: Sequence[int],
        tickets: tuple[tuple[TicketId, int], ...],
    ) -> l1_loading.Landed:
        """What is not good leaves the index now; its memory comes back with the last handle."""
        indices = tuple(load.indices[place] for place in good)
        digests = b"".join(_DIGEST.pack(answers[place].digest) for place in good)
        runs = b"".join(answers[place].run_digests for place in good)
        lost = len(load.indices) - len(indices)
        try:
            return await self._l1.ask(
                l1_loading.Land(load.lease, indices, digests, runs, lost, tickets),
                within=self._ask_s,
            )
        except PenstockError as refusal:
            # The tickets hear that all was lost, and go on from that: whether they are over is for L1 to say.
            self._log.warning("land_refused", reason=str(refusal))
            forget_frames(refusal)
        return l1_loading.Landed((), NO_LEASE, None)

    async def _commit(
        self,
        load: Load,
        passed: tuple[int, ...],
        hold: object,
    ) -> None:
        """`hold`: the lease lasts until this is over."""
        indices = tuple(load.indices[place] for place in passed)
        await hazard("prefetch.before_keep")
        try:
            keep = l1.Commit(load.lease, NODE_SESSION, indices, b"", b"")
            await self._l1.ask(keep, within=self._ask_s)
        except PenstockError as refusal:
            self._log.warning("keep_refused", reason=str(refusal))
        record = load.record
        self.records.forget(record, [record.names[place] for place in passed])
        if not load.landed and record in self._loads:
            self._close(load)

    def _close(self, load: Load) -> None:
        self.records.close(load.record)
        self._drop(load.record)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        self.records.validate()
        for record in self._loads:
            assert record.tickets.keys() <= self.waiting.keys(), "a ticket that is over"


def _skipped(answers: Sequence[store.Loaded]) -> set[int]:
    """Places that were not read."""
    skipped = store.LoadOutcome.SKIPPED
    return {place for place, answer in enumerate(answers) if answer.outcome is skipped}
