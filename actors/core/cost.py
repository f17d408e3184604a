"""Whether a load pays: what it takes by what was measured, against what the engine computes in that time.

Tiers work at once, so a load takes as long as the slowest of them: its latency, what waits there already, and the
bytes, at the rate that was seen. A tier of which nothing was seen yet costs nothing: it is measured by being used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.actors.api.store import Speed
from penstock.actors.api.types import Shape
from penstock.actors.core.load_plan import Plan, part_bytes, prefixes


def seconds_to_load(bytes_of: Mapping[int, int], speeds: Sequence[Speed]) -> float:
    """How long so many bytes of each tier take together. Tiers without a speed are free."""
    longest = 0.0
    for tier, count in bytes_of.items():
        if tier >= len(speeds) or count == 0:
            continue
        speed = speeds[tier]
        taken_s = speed.latency_s
        if speed.bytes_per_s > 0:
            taken_s += (speed.queued_bytes + count) / speed.bytes_per_s
        longest = max(longest, taken_s)
    return longest


def worth_loading(
    plan: Plan,
    shape: Shape,
    speeds: Sequence[Speed],
    *,
    first: int,
    chunk_tokens: int,
    prefill_tokens_per_s: int,
) -> int:
    """Up to which chunk the plan is worth carrying out: `plan.chunks`, less, or `first` when nothing of it is.

    `first`: chunks that the ticket has already. Of the lengths at which the plan may be cut, the one that saves most
    time. When some group is no full one the plan is taken whole or not at all: less of it may be no hit. What comes
    without the plan's loads, because it is being brought already, is no merit of theirs: they count from where the
    first of them begins.
    """
    if prefill_tokens_per_s <= 0:
        return plan.chunks
    begins = [part.first for part in plan.parts if part.source < len(speeds)]
    if not begins:
        return plan.chunks
    first = max(first, begins[0])
    ends = [end for end in (*lengths(plan, shape), plan.chunks) if end > first]
    bytes_of: dict[int, int] = {}
    best, best_saved_s = first, 0.0
    parts = iter(plan.parts)
    part = next(parts, None)
    for end in ends:
        while part is not None and part.first < end:
            bytes_of[part.source] = bytes_of.get(part.source, 0) + part_bytes(shape, part)
            part = next(parts, None)
        prefill_s = (end - first) * chunk_tokens / prefill_tokens_per_s
        saved_s = prefill_s - seconds_to_load(bytes_of, speeds)
        if saved_s > best_saved_s:
            best, best_saved_s = end, saved_s
    return best


def shortest(plan: Plan, shape: Shape, *, first: int) -> int:
    """The least of a plan that says how fast its tiers are, and is a hit beyond `first`."""
    return next((end for end in lengths(plan, shape) if end > first), plan.chunks)


def lengths(plan: Plan, shape: Shape) -> list[int]:
    """At which a plan may be cut so that what is left of it is of use."""
    return prefixes(plan) if shape.is_all_full else [plan.chunks]
