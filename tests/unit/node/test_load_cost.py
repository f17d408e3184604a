"""Whether a load pays: by what was measured, against what the engine computes meanwhile."""

from __future__ import annotations

import pytest

from penstock.actors.api.store import Speed
from penstock.actors.api.types import GeometryId, GroupGeometry, HitRule, Shape
from penstock.actors.core.cost import seconds_to_load, shortest, worth_loading
from penstock.actors.core.load_plan import Part, Plan
from penstock.actors.core.probing import Probes

MIB = 1 << 20
FULL = Shape.of(GeometryId(0), b"n" * 32, (GroupGeometry(HitRule.FULL, 0, (MIB,), (1,)),))
HYBRID = Shape.of(
    GeometryId(0),
    b"n" * 32,
    (
        GroupGeometry(HitRule.FULL, 0, (MIB,), (1,)),
        GroupGeometry(HitRule.STATE, 0, (MIB,), (1,)),
    ),
)
UNKNOWN = Speed(0.0, 0.0, 0)


def worth(plan: Plan, speeds: list[Speed], rate: int, *, shape: Shape = FULL) -> int:
    return worth_loading(plan, shape, speeds, first=0, chunk_tokens=256, prefill_tokens_per_s=rate)


def test_tiers_work_at_once_and_what_waits_there_comes_first() -> None:
    speeds = [Speed(0.01, 100 * MIB, 0), Speed(0.1, 10 * MIB, 5 * MIB), UNKNOWN]
    assert seconds_to_load({0: 10 * MIB}, speeds) == pytest.approx(0.11)
    assert seconds_to_load({0: 10 * MIB, 1: 5 * MIB}, speeds) == pytest.approx(1.1)
    assert seconds_to_load({2: 1000 * MIB}, speeds) == 0
    assert seconds_to_load({3: MIB}, speeds) == 0  # what somebody else brings
    assert seconds_to_load({}, speeds) == 0


def test_an_engine_that_does_not_say_how_fast_it_is_has_everything_loaded() -> None:
    plan = Plan(4, (Part(0, 0, 4, (0,)),))
    assert worth(plan, [Speed(10.0, 1.0, 0)], 0) == 4


@pytest.mark.parametrize(("rate", "chunks"), [(256, 4), (2_560, 4), (25_600, 0)])
def test_a_load_slower_than_computing_is_skipped(rate: int, chunks: int) -> None:
    """E2: 4 MiB at 10 MiB/s take 0.4 s; 1,024 tokens take 4 s, 0.4 s and a little, or 0.04 s."""
    plan = Plan(4, (Part(0, 0, 4, (0,)),))
    assert worth(plan, [Speed(0.0, 10.1 * MIB, 0)], rate) == chunks


def test_the_part_on_a_fast_tier_is_loaded_and_the_rest_on_a_slow_one_computed() -> None:
    plan = Plan(8, (Part(0, 0, 4, (0,)), Part(1, 4, 8, (0,))))
    speeds = [Speed(0.001, 1000 * MIB, 0), Speed(1.0, 1 * MIB, 0)]
    assert worth(plan, speeds, 10_000) == 4
    assert worth(plan, [speeds[0], speeds[0]], 10_000) == 8


def test_a_latency_is_paid_once_so_only_a_long_prompt_may_be_worth_it() -> None:
    speeds = [Speed(0.5, 1000 * MIB, 0)]
    assert worth(Plan(4, (Part(0, 0, 4, (0,)),)), speeds, 5_000) == 0
    assert worth(Plan(64, (Part(0, 0, 64, (0,)),)), speeds, 5_000) == 64


def test_hybrid_prompts_are_taken_whole_or_not_at_all() -> None:
    plan = Plan(8, (Part(0, 0, 4, (0,)), Part(1, 4, 8, (0,)), Part(1, 7, 8, (1,))))
    speeds = [Speed(0.001, 1000 * MIB, 0), Speed(1.0, 1 * MIB, 0)]
    assert worth(plan, speeds, 10_000, shape=HYBRID) == 0
    assert worth(plan, [speeds[0], speeds[0]], 10_000, shape=HYBRID) == 8


def test_what_is_coming_already_is_no_merit_of_the_load_behind_it() -> None:
    """Seen to fail while chunks in flight counted as saved by whatever was planned after them: 16 chunks of computing
    were weighed against the bytes of 8."""
    coming = 1  # the source after the only tier
    plan = Plan(16, (Part(coming, 0, 8, (0,)), Part(0, 8, 16, (0,))))
    speeds = [Speed(0.0, 10 * MIB, 0)]  # 0.8 s
    assert worth(plan, speeds, 256 * 15) == 8  # 8 chunks are computed in 0.53 s, 16 in 1.07 s
    assert worth(plan, speeds, 256 * 5) == 16
    replanned = Plan(16, (Part(0, 8, 16, (0,)),))  # the ticket's own loads of the first 8
    assert worth(replanned, speeds, 256 * 15) == 8


def test_what_is_only_coming_costs_nothing() -> None:
    plan = Plan(8, (Part(1, 0, 8, (0,)),))
    assert worth(plan, [Speed(10.0, 1.0, 0)], 1_000_000) == 8


def test_a_probe_is_the_shortest_that_is_a_hit() -> None:
    parts = (Part(0, 0, 1, (0,)), Part(0, 1, 3, (0,)), Part(0, 3, 8, (0,)))
    assert shortest(Plan(8, parts), FULL, first=0) == 1
    assert shortest(Plan(8, parts), FULL, first=1) == 3
    assert shortest(Plan(8, (*parts, Part(0, 7, 8, (1,)))), HYBRID, first=0) == 8


def test_a_slow_tier_is_probed_now_and_then() -> None:
    probes = Probes(10.0)
    assert not probes.take(0, 100.0)
    assert not probes.take(0, 109.9)
    assert probes.take(0, 110.0)
    assert not probes.take(0, 119.9)
    assert not probes.take(1, 119.9)
    assert probes.take(0, 1000.0)
    assert not probes.take(0, 1009.0)
