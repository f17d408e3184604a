"""One ticket's loads, from start to end: a linear coroutine.

    locate, slice by slice, in all tiers at once, each under its own deadline   \\  beside each other: what fast tiers
    plan -> join or reserve -> load -> land; again whenever something is news   /  have is loaded while slow ones think
    settle: what lies beyond the final watermark is dropped
    rest, if the ticket reads what becomes nobody's: until it is over

Given up at any await it leaves nothing behind: extents live by the handles of their leases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from anyio import CancelScope, create_task_group, move_on_after, sleep
from anyio.lowlevel import checkpoint

from penstock.actors.api import eviction, l1_loading, prefetch, store
from penstock.actors.api.types import KEY_BYTES, Afterwards, Shortfall
from penstock.actors.awaiting import Awaiting, Others
from penstock.actors.core.cost import shortest, worth_loading
from penstock.actors.core.load_plan import (
    Batching,
    Known,
    Part,
    Plan,
    cut,
    first_missing,
    last_needed,
    plan_load,
)
from penstock.actors.core.load_records import Name, Record, Stage
from penstock.actors.load_targets import Refused, arena_bytes, load_targets, reservation
from penstock.actors.loads import First
from penstock.actors.locating import Glance, Locating, News
from penstock.actors.measuring import Measuring
from penstock.actors.surroundings import Surroundings
from penstock.runtime.errors import PenstockError
from penstock.runtime.hazard import hazard

_GRANTED, _RESIDENT, _IN_FLIGHT = 0, 1, 2  # of _native.Answer; what is above is a refusal
_STEP = 256  # objects of several parts begun in one step of the loop; a single part has no more


class Fetching:
    """Loads for one ticket."""

    def __init__(
        self, want: prefetch.Fetch, around: Surroundings, *, rests: Callable[[], None]
    ) -> None:
        """`rests` is called when there is nothing left to load, and what is read has to be held."""
        self._rests = rests
        self._scope = CancelScope()  # cancelled when the ticket is over
        self.limit_chunks = 0  # see loads.Waiting
        self._want = want
        self._around = around
        self._loads = around.loads
        self._limits = around.limits
        self._total = len(want.keys) // KEY_BYTES
        self._known = Known(want.shape, first=want.hit_chunks, tiers=len(around.tiers))
        self._news = News()
        self._locating = Locating(
            want,
            self._known,
            around.tiers,
            around.l1,
            slice_chunks=around.limits.slice_chunks,
            ask_s=around.limits.ask_s,
            news=self._news,
        )
        # Only engines that say what it costs can compute instead.
        measured = around.tiers if want.prefill_tokens_per_s else ()
        self._measuring = Measuring(measured, heard=self._news.tell)
        self._awaiting = Awaiting(want, around.l1, ask_s=around.limits.ask_s)
        self._hit = want.hit_chunks
        self._cap = self._total  # there is no room for more, or no use
        self._promised = self._total
        self._step_chunks = 0  # how far was planned last
        self._reach = 0  # the best that any plan hoped for
        self._chunks_begun = 1
        self._surveys_left = around.limits.surveys_max
        self._shortfall = Shortfall.NONE
        self._deadline = 0.0

    # News, from the loads.

    def lost(self, tier: int, name: Name, chunk: int) -> None:
        if self._known.first <= chunk < self._known.end and self._is_mine(name, chunk):
            self._known.lose(tier, chunk, name[1])
            if self._shortfall is Shortfall.NONE:
                self._shortfall = Shortfall.FAILED
            self._news.tell()

    def has_passed(self, name: Name, chunk: int) -> bool:
        return chunk < self._hit and self._is_mine(name, chunk)

    def _is_mine(self, name: Name, chunk: int) -> bool:
        return self._name(chunk, name[1]) == name

    def stirred(self) -> None:
        """What others wrote is there, or given up."""
        self._news.tell()

    def end(self, hit_chunks: int) -> None:
        """The ticket is over; its watermark was there."""
        self._hit = max(self._hit, hit_chunks)
        self._scope.cancel()

    def moved(self, hit_chunks: int) -> None:
        self._hit = max(self._hit, hit_chunks)
        if self._loads.waiting.get(self._want.ticket) is not self:
            return  # it ended while L1 was asked: nobody would leave what it joined now
        if hit_chunks < 0:
            self._scope.cancel()
            return
        if not self._want.shape.is_all_full:
            self._hold_what_is_read()
        self._news.tell()

    def _hold_what_is_read(self) -> None:
        """Less than was planned may be a hit by what others have brought: stay with their loads."""
        shape = self._want.shape
        for slot, kind in enumerate(shape.slots):
            for chunk in last_needed(shape.groups[kind.group], self._hit):
                record = self._loads.records.find(self._name(chunk, slot))
                if record is not None and record.stage is Stage.LANDED:
                    self._loads.join(record, self._want.ticket, self._deadline)

    # The coroutine, and what is done before it in the step of the lookup.

    def begin(self, glance: Glance | None) -> None:
        """To be followed by `run`. What comes first is loaded before anything else is done, if it is clear already: no
        disk waits for what is planned beside it."""
        self._deadline = asyncio.get_running_loop().time() + self._want.load_s
        self._loads.waiting[self._want.ticket] = self
        if glance is None:
            return
        self._locating.begin(glance)
        if (first := glance.take_first()) is not None:
            self._known.hold_part(first.part)
            places = [*first.part.objects()]
            self._load(first.part.source, first.lease, range(len(places)), places, first)
            self.limit_chunks = self._reach = first.part.last

    async def run(self) -> None:
        """Until the ticket needs nothing of the prefetcher any more. Never raises a PenstockError."""
        want, now = self._want, asyncio.get_running_loop().time()
        try:
            with self._scope:
                await self._bring()
                await hazard("prefetch.before_settle")
                if await self._settle():
                    self._locating.forget()  # many may rest, and for long
                    self._rests()
                    await sleep(max(0.0, now + want.ticket_s - asyncio.get_running_loop().time()))
        finally:
            self._loads.leave(want.ticket, self._loads.records.of(want.ticket))
            del self._loads.waiting[want.ticket]
            self._around.metrics.over(self._hit - want.hit_chunks, self._shortfall)

    async def _bring(self) -> None:
        with move_on_after(self._want.load_s) as within:
            try:
                await self._loads.wait_ahead(self._want.ticket)
                await self._loads.move(self._want.ticket)  # is anybody waiting still?
                async with create_task_group() as tasks:
                    self._measuring.begin(tasks)
                    tasks.start_soon(self._locating.run, name="locate")
                    await self._pursue()
                    tasks.cancel_scope.cancel()
            except* PenstockError:
                self._shortfall = Shortfall.FAILED
        if within.cancelled_caught or asyncio.get_running_loop().time() >= self._deadline:
            self._shortfall = Shortfall.OUT_OF_TIME

    # Planning and loading.

    async def _pursue(self) -> None:
        while self._hit < self._total:
            await checkpoint()
            seen = self._news.count
            plan = self._plan()
            await self._carry_out(plan)
            if self._news.count != seen or self._plans_on(plan):
                continue
            if self._locating.is_over and not self._loads.records.is_waiting(self._want.ticket):
                await self._loads.move(self._want.ticket)  # writers may have moved it, too
                if self._hit >= plan.chunks or not await self._look_again(plan):
                    return
                continue
            await self._promise(plan)
            if self._news.count == seen:
                await self._news.wait()

    def _plan(self) -> Plan:
        limit = self._step_chunks = self._limit()
        if limit <= self._known.first:
            return Plan(self._known.first, ())
        batching = Batching(self._limits.batch_bytes, self._chunks_begun)
        plan = plan_load(self._known, limit, batching, self._around.longest)
        worth = worth_loading(
            plan,
            self._want.shape,
            self._measuring.speeds,
            first=max(self._hit, self._known.first),
            chunk_tokens=self._want.chunk_tokens,
            prefill_tokens_per_s=self._want.prefill_tokens_per_s,
        )
        self._reach = max(self._reach, plan.chunks)
        if worth < plan.chunks and self._locating.is_over:
            # Slower than computing: final, as far as this tier's answer goes.
            worth = self._probed(plan, worth)
            self._around.metrics.skipped(plan.chunks - worth, Shortfall.SLOWER_THAN_PREFILL)
            self._shortfall, self._cap = Shortfall.SLOWER_THAN_PREFILL, worth
        return plan if worth >= plan.chunks else cut(plan, worth)

    def _limit(self) -> int:
        """How far is planned now: a long prompt in several steps, where less of it is of use, too."""
        limit, step = min(self._cap, self._known.end), self._limits.plan_chunks_max
        if self._want.shape.is_all_full and limit - self._known.first > step:
            limit = min(limit, first_missing(self._known) + step)
        return limit

    def _plans_on(self, plan: Plan) -> bool:
        """Whether the plan was only that of a step, and all of that."""
        return self._step_chunks <= plan.chunks < min(self._cap, self._known.end)

    def _probed(self, plan: Plan, worth: int) -> int:
        """Now and then a little of what is not worth it is loaded, to see whether it still is not."""
        tier = next((part.source for part in plan.parts if part.first >= worth), None)
        now = asyncio.get_running_loop().time()
        if tier is None or not self._around.probes.take(tier, now):
            return worth
        return shortest(plan, self._want.shape, first=worth)

    async def _carry_out(self, plan: Plan) -> None:
        """Join what others load, and begin the rest, in as few steps as may be: between two, others take its room."""
        begun = 0  # objects, in this step
        for position, part in enumerate(plan.parts):
            if part.source == self._known.coming:
                self._join(part.objects())
            elif not await self._begin(part, plan.parts[position:]):
                break
            after = plan.parts[position + 1 : position + 2]
            self.limit_chunks = max(self.limit_chunks, after[0].first if after else plan.chunks)
            begun += part.count
            is_step = not after or begun + after[0].count > _STEP
            if is_step or self._loads.is_ahead(self._want.ticket):
                await self._loads.wait_ahead(self._want.ticket)
                begun = 0
        mine = self._loads.records.of(self._want.ticket)
        if plan.parts and any(record.stage is Stage.LANDED for record in mine):
            await self._loads.move(self._want.ticket)

    def _join(self, places: Iterable[tuple[int, int]]) -> None:
        """Somebody brings these: a load that is joined, or a writer, whose commit the ticket hears of anyway."""
        for chunk, slot in places:
            record = self._loads.records.find(self._name(chunk, slot))
            if record is None:
                self._awaiting.add(chunk, slot)
            else:
                self._loads.join(record, self._want.ticket, self._deadline)
            self._known.hold(chunk, slot)

    async def _begin(self, part: Part, rest: Sequence[Part]) -> bool:
        """Reserve a part and load it. False if there is no room for all of it: then nothing beyond is of use."""
        refused = await self._reserve(part)
        if refused is None:
            return True
        tried: set[Shortfall] = set()  # who was short of the one may be of the other, in any order
        async with self._around.admission:
            while refused is not None and refused.why not in tried:
                tried.add(refused.why)
                left = replace(part, first=refused.chunk)
                await self._make_room([left, *rest[1:]], refused.why)
                refused = await self._reserve(left)
        if refused is None:
            return True
        self._cap, self._shortfall = max(self._known.first, refused.chunk), refused.why
        self._news.tell()
        return False

    async def _make_room(self, missing: Sequence[Part], why: Shortfall) -> None:
        """For all of these. Whose tenant is at its quota makes room among its own: others' would not help it."""
        mine = (part for part in missing if part.source != self._known.coming)
        count = sum(arena_bytes(self._want.shape, part) for part in mine)
        make_room = eviction.MakeRoom(count, self._want.salt if why is Shortfall.QUOTA else None)
        with move_on_after(self._limits.room_s), suppress(PenstockError):  # then there is none
            await self._around.evictor.ask(make_room, within=self._limits.room_s)

    async def _reserve(self, part: Part) -> Refused | None:
        """Begin to load what was granted. None: all was granted."""
        reserve = reservation(self._want, part)
        async with self._around.reserving:
            lease = await self._around.l1.ask(reserve, within=self._limits.ask_s)
            await hazard("prefetch.after_reserve")
            return self._take(part, lease)

    def _take(self, part: Part, lease: l1_loading.LoadLease) -> Refused | None:
        refused: Refused | None = None
        granted: list[int] = []
        places = [*part.objects()]
        for index, answer in enumerate(lease.answers):
            if answer == _GRANTED:
                granted.append(index)
            elif answer == _IN_FLIGHT:
                self._join([places[index]])
            elif answer != _RESIDENT:
                refused = Refused.by(answer, places[index][0])
                break
            self._known.hold(*places[index])
        if granted:
            self._load(part.source, lease, granted, [places[index] for index in granted])
        return refused

    def _load(
        self,
        tier: int,
        lease: l1_loading.LoadLease,
        indices: Sequence[int],
        places: Sequence[tuple[int, int]],
        first: First | None = None,
    ) -> None:
        names = [self._name(*place) for place in places]
        if first is None:
            given = (self._want.shape, self._around.memory, lease, indices)
            targets = load_targets(*given, names=names, keys=self._locating.keys(places))
        self._chunks_begun = max(self._chunks_begun, 2 * (places[-1][0] - places[0][0] + 1))
        self._loads.begin(
            self._want.ticket,
            tier,
            self._deadline,
            names=names,
            places=places,
            lease=lease,
            indices=indices,
            ask=store.LoadPrefix if self._want.shape.is_all_full else store.Load,
            targets=targets if first is None else first.targets,
            first=first,
        )

    def _name(self, chunk: int, slot: int) -> Name:
        return self._want.keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES], slot

    async def _look_again(self, plan: Plan) -> bool:
        """Nothing of its own is under way, and less is hit than was planned. Whether anything may come of it yet."""
        seen = self._news.count
        others = await self._awaiting.look()
        if others is Others.WRITING:
            await self._promise(plan)
            if self._news.count == seen:
                await self._news.wait()
            return True
        if others is Others.NOTHING:
            if self._surveys_left == 0:
                return False
            self._surveys_left -= 1
        await self._survey(plan)
        return True

    async def _survey(self, plan: Plan) -> None:
        """What L1 had when it was looked at may have gone: evicted, or given up by its writer."""
        first, last = self._known.first, plan.chunks
        keys = self._want.keys[first * KEY_BYTES : last * KEY_BYTES]
        survey = l1_loading.Survey(keys, self._want.shape.geometry)
        presence = await self._around.l1.ask(survey, within=self._limits.ask_s)
        self._known.survey(first, presence)

    async def _promise(self, plan: Plan) -> None:
        """Less than before, if it is so; that nothing more comes is said at the end, with the reason."""
        if self._locating.is_over and self._hit < plan.chunks < self._promised:
            self._promised = plan.chunks
            hope = l1_loading.Hope(self._want.ticket, plan.chunks, self._shortfall)
            await self._around.l1.ask(hope, within=self._limits.ask_s)

    # The end.

    async def _settle(self) -> bool:
        """Drop what is beyond the watermark, and say that it is final. True: some of what is read goes with the ticket,
        so stay until it is over."""
        want, loads = self._want, self._loads
        loads.keep(want.ticket)
        mine = loads.records.of(want.ticket)
        read = {record: None for record in mine if self._is_read(record)}
        loads.leave(want.ticket, [record for record in mine if record not in read])
        if self._hit >= (self._reach if self._locating.is_over else self._total):
            self._shortfall = Shortfall.NONE
        stays = bool(read) and want.afterwards is Afterwards.KEEP
        hope = l1_loading.Hope(want.ticket, 0, self._shortfall)
        settle = l1_loading.Settle(want.ticket, self._shortfall)
        await self._around.telling.tell(want.ticket, hope if stays else settle)
        return stays

    def _is_read(self, record: Record) -> bool:
        if record.stage is not Stage.LANDED or self._around.tiers[record.tier].is_kept:
            return False
        return self.has_passed(record.names[0], record.places[0][0])  # its first chunk, if any
