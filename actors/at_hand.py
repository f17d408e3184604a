"""What is at hand is brought in the very step that asks for it: no task, no turn of the loop.

    locate -> [survey] -> plan -> reserve -> load -> finish      each answered at once, or the ticket goes its way

L1 is surveyed where no store has all that is missing: else its reservation tells what it has.

Few bytes, that a store can give without waiting, of a prompt that ends with them; or the news that no store has the
next chunk, which is what most prompts hear. It is judged by its cost, and takes of the room of its tier, as any load.
Whatever was begun and cannot be finished here ends with its leases, and is begun anew by the ticket's coroutine.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from contextlib import suppress

from penstock.actors.api import l1_loading, prefetch, store
from penstock.actors.api.types import KEY_BYTES, Afterwards, Shortfall
from penstock.actors.core.cost import worth_loading
from penstock.actors.core.load_plan import Batching, Known, Part, Plan, part_bytes, plan_load
from penstock.actors.load_targets import load_targets, reservation, whole_pages
from penstock.actors.locating import Glance
from penstock.actors.object_keys import object_keys
from penstock.actors.surroundings import Surroundings
from penstock.runtime.errors import PenstockError
from penstock.runtime.message import NOT_AT_ONCE

_RESIDENT, _COMING = 1, 2  # of _native.Presence
_DIGEST = struct.Struct("<Q")


class AtHand:
    """Of one prefetcher."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def bring(self, want: prefetch.Fetch) -> l1_loading.Finished | Glance | None:
        """What the ticket has come to. Else it has to be fetched; what was seen of it, if anything, is for `begin`."""
        if want.afterwards is not Afterwards.KEEP or self._around.reserving.locked():
            return None
        seen: Glance | None = None
        # An actor that is ill is asked once more, in the ordinary way.
        with suppress(PenstockError):
            seen = self._look(want)
            if seen is not None and (finished := self._bring(want, seen)) is not None:
                return finished
        return seen

    def begin(self, want: prefetch.Fetch, seen: Glance) -> Glance | None:
        """To be fetched: what comes first is under way when this returns, if it can be. What was seen and is of use."""
        with suppress(PenstockError):
            if self._begin_first(want, seen) or self._survey(want, seen):
                return seen
        return None

    def _bring(self, want: prefetch.Fetch, seen: Glance) -> l1_loading.Finished | None:
        plan = self._plan(want, seen)
        if plan is None or not self._is_worth(want, plan):
            return None
        loaded = self._load_all(want, plan, seen.names)
        if loaded is None:
            return None
        whole = tuple(one for one, _ in loaded)
        finish = l1_loading.Finish(want.ticket, want.instance, whole)
        finished = self._around.l1.ask_now(finish)
        if finished is NOT_AT_ONCE:
            return None
        # The answer need not wait for this.
        asyncio.get_running_loop().call_soon(
            self._count, plan, finished.hit_chunks - want.hit_chunks
        )
        return finished

    def _count(self, plan: Plan, gained_chunks: int) -> None:
        for part in plan.parts:
            count = (part.last - part.first) * len(part.slots)
            self._around.metrics.loaded(self._around.tiers[part.source].name, count, 0)
        self._around.metrics.over(gained_chunks, Shortfall.NONE)

    def _look(self, want: prefetch.Fetch) -> Glance | None:
        """All that is missing if that is little, else the next chunk; nothing is asked yet."""
        shape, limits = want.shape, self._around.limits
        chunks, is_all = len(want.keys) // KEY_BYTES - want.hit_chunks, True
        if (
            chunks * len(shape.slots) > limits.at_hand_objects_max
            or chunks * sum([whole_pages(slot.bytes) for slot in shape.slots])
            > limits.at_hand_bytes_max
        ):
            if not shape.is_all_full:
                return None  # what its groups need lies anywhere
            chunks, is_all = 1, False
        keys = want.keys[want.hit_chunks * KEY_BYTES : (want.hit_chunks + chunks) * KEY_BYTES]
        return Glance(b"", object_keys(shape, keys, range(len(shape.slots))), {}, is_all)

    def _survey(self, want: prefetch.Fetch, seen: Glance) -> bool:
        """Ask what L1 has. False when it cannot say, or somebody brings some of it: what is on its way is looked at
        when it is joined, and may be given up by then."""
        if not seen.presence:
            first, count = want.hit_chunks, len(seen.names) // len(want.shape.slots)
            keys = want.keys[first * KEY_BYTES : (first + count) * KEY_BYTES]
            presence = self._around.l1.ask_now(l1_loading.Survey(keys, want.shape.geometry))
            if presence is NOT_AT_ONCE or _COMING in presence:
                return False
            seen.presence = presence
        return True

    def _plan(self, want: prefetch.Fetch, seen: Glance) -> Plan | None:
        """What to load to reach the end; None when that is not at hand, or not known.

        What one tier has all of is not looked for in L1: whether it is there, its reservation says."""
        tiers, first, limits = self._around.tiers, want.hit_chunks, self._around.limits
        total = len(want.keys) // KEY_BYTES
        known: Known | None = None
        plan = Plan(first, ())
        for number, tier in enumerate(tiers):
            found = tier.ref.ask_now(store.Locate(seen.names))
            if found is NOT_AT_ONCE:
                return None
            seen.found[number] = found
            if not any(found):
                continue
            if not seen.is_all or not tier.is_kept:
                return None
            if known is None and 0 not in found and want.shape.is_all_full:
                slots = tuple(range(len(want.shape.slots)))
                return Plan(total, (Part(number, first, total, slots),))
            if known is None:
                if not self._survey(want, seen):
                    return None
                known = Known(want.shape, first=first, tiers=len(tiers))
                known.grow(seen.presence)
            known.found(number, first, found)
            batching = Batching(limits.at_hand_bytes_max, chunks_begun=limits.at_hand_objects_max)
            plan = plan_load(known, total, batching, self._around.longest)
            if plan.chunks == total:
                return plan
        if not self._survey(want, seen):
            return None
        if not seen.is_all and _RESIDENT in seen.presence:
            return None  # more may come behind it
        return plan

    def _begin_first(self, want: prefetch.Fetch, seen: Glance) -> bool:
        """Load the next chunk, if one tier has all of it, L1 nothing, and it is worth its load."""
        shape = want.shape
        slots = tuple(range(len(shape.slots)))
        has_it = (tier for tier, found in seen.found.items() if all(found[: len(slots)]))
        tier = next(has_it, None)
        if tier is None or any(seen.presence[: len(slots)]) or not shape.is_all_full:
            return False
        part = Part(tier, want.hit_chunks, want.hit_chunks + 1, slots)
        if not self._is_worth(want, Plan(part.last, (part,))):
            return False
        if len(seen.names) > len(slots) and not self._survey(want, seen):
            return False
        lease = self._around.l1.ask_now(reservation(want, part))
        if lease is NOT_AT_ONCE or not _is_granted(lease):
            return False
        seen.presence = seen.presence or bytes(len(slots))
        chunk = want.keys[part.first * KEY_BYTES : part.last * KEY_BYTES]
        names, keys = [(chunk, slot) for slot in slots], [seen.names[slot] for slot in slots]
        targets = load_targets(shape, self._around.memory, lease, slots, names=names, keys=keys)
        seen.first = self._around.loads.begin_first(part, lease, tuple(targets))
        return True

    def _is_worth(self, want: prefetch.Fetch, plan: Plan) -> bool:
        """Whether all of it takes less time than the engine needs, by what was measured; if nobody says, it does."""
        if want.prefill_tokens_per_s == 0 or not plan.parts:
            return True
        speeds = []
        for tier in self._around.tiers:
            speed = tier.ref.ask_now(store.MeasureSpeed())
            if speed is NOT_AT_ONCE:
                return False
            speeds.append(speed)
        worth = worth_loading(
            plan,
            want.shape,
            speeds,
            first=want.hit_chunks,
            chunk_tokens=want.chunk_tokens,
            prefill_tokens_per_s=want.prefill_tokens_per_s,
        )
        return worth >= plan.chunks

    def _load_all(
        self, want: prefetch.Fetch, plan: Plan, names: store.Keys
    ) -> list[tuple[l1_loading.Whole, object]] | None:
        """Each load and its hold, which must last until L1 has it."""
        loaded = []
        for part in plan.parts:
            one = self._load(want, part, names)
            if one is None:
                return None
            loaded.append(one)
        return loaded

    def _load(
        self, want: prefetch.Fetch, part: Part, names: store.Keys
    ) -> tuple[l1_loading.Whole, object] | None:
        room, count = self._around.loads.rooms[part.source], part_bytes(want.shape, part)
        if not room.take_now(count):
            return None
        try:
            return self._load_into(want, part, names)
        finally:
            room.give_back(count)

    def _load_into(
        self, want: prefetch.Fetch, part: Part, names: store.Keys
    ) -> tuple[l1_loading.Whole, object] | None:
        lease = self._around.l1.ask_now(reservation(want, part))
        if lease is NOT_AT_ONCE or not _is_granted(lease):
            return None
        width = len(want.shape.slots)
        keys = [names[(chunk - want.hit_chunks) * width + slot] for chunk, slot in part.objects()]
        places = [(b"", slot) for _, slot in part.objects()]  # what is at hand is found by its key
        indices, memory = range(len(keys)), self._around.memory
        targets = load_targets(want.shape, memory, lease, indices, names=places, keys=keys)
        tier = self._around.tiers[part.source]
        answers = tier.ref.ask_now(store.Load(tuple(targets)))
        if answers is NOT_AT_ONCE or not _all_loaded(answers):
            return None
        digests = b"".join([_DIGEST.pack(one.digest) for one in answers])
        runs = b"".join([one.run_digests for one in answers])
        return l1_loading.Whole(lease.lease, digests, runs), lease.hold


def _is_granted(lease: l1_loading.LoadLease) -> bool:
    """All of it: L1 has none of these objects, and nobody brings one."""
    return not any(lease.answers)


def _all_loaded(answers: Sequence[store.Loaded]) -> bool:
    return all(one.outcome is store.LoadOutcome.LOADED for one in answers)
