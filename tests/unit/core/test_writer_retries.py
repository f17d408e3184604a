"""What waits for another try: by name, within its budget, and given up when its time is over."""

from __future__ import annotations

import math

from support.saving_world import FULL, NAMESPACE, PAGE

from penstock.actors.api.types import GeometryId, Shape
from penstock.actors.writer_books import name_of
from penstock.actors.writer_queue import Waiting
from penstock.actors.writer_retries import Retries, RetryLimits

SHAPE = Shape.of(GeometryId(0), NAMESPACE, FULL)
LIMITS = RetryLimits(objects_max=3, bytes_max=1 << 30, within_s=60.0, pause_s=1.0, pause_s_max=8.0)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def retries(limits: RetryLimits = LIMITS) -> Retries:
    return Retries(limits, draw=lambda: 1.0)


def test_the_time_of_an_object_begins_when_it_fails_first() -> None:
    one = retries()
    assert one.wakes_s(100.0) == math.inf
    assert one.add(SHAPE, key(1), 0, 100.0)
    assert (one.is_due(100.9), one.is_due(101.0)) == (False, True)
    one.queue.pop()
    assert one.add(SHAPE, key(1), 0, 150.0)
    assert one.pop_old(159.0, objects_max=9) == []
    (old,) = one.pop_old(160.0, objects_max=9)
    assert (old.key, old.slot, one.queue.objects) == (key(1), 0, 0)
    assert one.wakes_s(160.0) == math.inf


def test_what_is_tried_when_its_time_is_over_has_its_last_try() -> None:
    one = retries()
    one.add(SHAPE, key(1), 0, 100.0)
    one.queue.pop()
    assert one.pop_old(160.0, objects_max=9) == []
    assert not one.add(SHAPE, key(1), 0, 161.0)
    one.forget(name_of(key(1), 0))
    assert one.add(SHAPE, key(1), 0, 162.0), "committed anew"


def test_a_budget_has_its_bounds() -> None:
    one = retries()
    assert [one.add(SHAPE, key(n), 0, 100.0) for n in range(4)] == [True, True, True, False]
    few_bytes = RetryLimits(9, 2 * PAGE, 60.0, 1.0, 8.0)
    one = retries(few_bytes)
    assert [one.add(SHAPE, key(n), 0, 100.0) for n in range(3)] == [True, True, False]


def test_a_budget_smaller_than_an_object_lets_one_wait() -> None:
    """Of a store of many places each has a part of the budget. Seen to fail: what was larger than that part had finally
    failed at once, however briefly its disk was away."""
    one = retries(RetryLimits(9, PAGE // 2, 60.0, 1.0, 8.0))
    assert [one.add(SHAPE, key(n), 0, 100.0) for n in range(2)] == [True, False]
    one.queue.pop()
    assert one.add(SHAPE, key(1), 0, 101.0), "it waits alone again"
    none = retries(RetryLimits(9, 0, 60.0, 1.0, 8.0))
    assert not none.add(SHAPE, key(1), 0, 100.0), "who wants no other try has none"


def test_what_works_of_them_frees_the_others_and_what_works_elsewhere_brings_them_near() -> None:
    one = retries()
    for at in (100.0, 101.0, 103.0):
        one.add(SHAPE, key(int(at)), 0, at)
    assert one.wakes_s(103.0) == 4.0
    one.worked([name_of(key(1), 0)], 103.0)
    assert one.wakes_s(103.0) == 1.0
    one.worked([name_of(key(101), 0)], 103.0)
    assert one.is_due(103.0)


def test_sums_of_what_waits_are_those_of_its_parts() -> None:
    queue = Waiting()
    queue.add(SHAPE, key(1), 0, 100.0)
    queue.add_chunk(SHAPE, key(2), b"\1", 101.0)
    queue.add_chunk(SHAPE, key(2), b"\1", 102.0)
    assert (queue.objects, queue.size_bytes) == (2, 2 * PAGE)
    assert (queue.has(SHAPE, key(2), 0), queue.remove(SHAPE, key(2), 0)) == (True, False)
    assert [one for one, _ in queue.pop_old(110.0, within_s=9.5, chunks_max=9)] == [key(1)]
    assert queue.remove(SHAPE, key(1), 0) is False
    queue.pop()
    assert (queue.objects, queue.size_bytes, queue.first()) == (0, 0, None)
