"""Who goes first, and who never goes."""

from __future__ import annotations

import pytest
from support.table_rig import PAGE_BYTES, TableRig, prompt

from penstock._native import Group, Policy, Rule

POLICIES = [Policy.LRU, Policy.S3FIFO]


def evicted(rig: TableRig, chunks: int) -> list[bytes]:
    return [rig.table.evict(1, now=rig.now).keys for _ in range(chunks)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_prefix_never_goes_before_its_suffix(policy: Policy) -> None:
    """Three prompts that share a prefix, touched in any order: always a leaf, always all of it."""
    rig = TableRig(policy=policy)
    stem = prompt("stem", 3)
    branches = [prompt(name, 3) for name in "abc"]
    rig.put(stem)
    for branch in branches:
        rig.put(branch, parent=stem[-1])
    rig.table.touch(b"".join(stem + branches[0]), now=1)
    rig.table.touch(b"".join(branches[1]), now=2)
    order = evicted(rig, 12)
    for line in [stem + branch for branch in branches]:
        assert [key for key in reversed(order) if key in line] == line
    rig.table.validate()
    assert rig.pages_free() == 64


def test_lru_goes_by_last_touch_and_a_parent_keeps_its_own() -> None:
    rig = TableRig()
    old, new, long = prompt("old", 1), prompt("new", 1), prompt("long", 2)
    rig.put(long)
    rig.put(old)
    rig.put(new)
    rig.table.touch(old[0], now=1)
    rig.table.touch(long[0], now=2)  # the prefix alone: a prompt that parts there
    assert evicted(rig, 4) == [long[1], new[0], old[0], long[0]]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_held_or_being_written_does_not_go(policy: Policy) -> None:
    rig = TableRig(policy=policy)
    held, free, base = prompt("held", 2), prompt("free", 2), prompt("base", 1)
    for keys in (held, free, base):
        rig.put(keys)
    lease = rig.read(held[:1]).lease
    rig.reserve(prompt("more", 1), parent=base[0])
    assert set(evicted(rig, 3)) == {*free, held[1]}
    assert rig.evict_all() == 0
    rig.release(lease)
    assert evicted(rig, 2) == [held[0], b""]
    rig.table.validate()


@pytest.mark.parametrize("policy", POLICIES)
def test_eviction_counts_bytes_and_stops_when_it_has_enough(policy: Policy) -> None:
    rig = TableRig(pages=64, object_bytes=3 * 4096 - 5, policy=policy)
    rig.put(prompt("p", 10))
    made = rig.table.evict(4 * 4096, now=0)
    assert (made.bytes, made.chunks, made.objects) == (6 * 4096, 2, 2)
    assert rig.table.statistics().evicted_bytes == 6 * 4096
    assert rig.table.evict(0, now=0).chunks == 0


def test_s3fifo_keeps_what_was_used_twice_through_a_scan() -> None:
    """One pass over many prompts that never come back must not drive out those that do."""
    rig = TableRig(pages=100, policy=Policy.S3FIFO)
    used = [prompt(f"used {i}", 1) for i in range(20)]
    for keys in used:
        rig.put(keys)
    for _ in range(2):
        for keys in used:
            rig.release(rig.read(keys).lease)
    for i in range(1000):
        if rig.pages_free() == 0:
            rig.table.evict(1, now=0)
        rig.put(prompt(f"once {i}", 1))
    assert sum(rig.hit(keys) for keys in used) == 20
    rig.table.validate()


def test_lru_does_not() -> None:
    """The same scan, so that the test above is known to tell policies apart."""
    rig = TableRig(pages=100)
    used = [prompt(f"used {i}", 1) for i in range(20)]
    for keys in used:
        rig.put(keys)
        rig.release(rig.read(keys).lease)
    for i in range(1000):
        if rig.pages_free() == 0:
            rig.table.evict(1, now=0)
        rig.put(prompt(f"once {i}", 1))
    assert sum(rig.hit(keys) for keys in used) == 0


def test_s3fifo_takes_back_into_main_what_it_let_go_too_early() -> None:
    rig = TableRig(pages=100, policy=Policy.S3FIFO)
    victim = prompt("victim", 1)
    rig.put(victim)
    number = 0
    while rig.hit(victim):
        if rig.pages_free() == 0:
            rig.table.evict(1, now=0)
        rig.put(prompt(f"once {number}", 1))
        number += 1
    rig.table.evict(1, now=0)
    rig.put(victim)  # its ghost is remembered
    for i in range(300):
        rig.table.evict(1, now=0)
        rig.put(prompt(f"more {i}", 1))
    assert rig.hit(victim) == 1


def test_s3fifo_looks_for_a_victim_in_a_bounded_number_of_turns() -> None:
    """DESIGN 9: a million chunks that were all read again are no reason to pass over all of them."""
    chunks = 20_000
    rig = TableRig(pages=chunks, objects_max=chunks, policy=Policy.S3FIFO, leases_max=2)
    keys = [prompt(f"{i}", 1)[0] for i in range(chunks)]
    for key in keys:
        rig.put([key])
    for now in range(4):
        rig.table.touch(b"".join(keys), now=now)
    # Without a bound all are passed over, and it is the first one's turn again.
    assert keys.index(rig.table.evict(1, now=9).keys) == 1024
    rig.table.validate()


def test_an_object_that_can_never_fit_asks_for_no_eviction() -> None:
    """B17: room is missing only where evicting could make it; a prompt is worth what its prefix needs."""
    rig = TableRig(pages=8)
    rig.put(prompt("old", 8))
    small = rig.geometry
    rig.geometry = rig.table.add_geometry([Group(rule=Rule.FULL, shard_bytes=[9 * PAGE_BYTES])])
    assert rig.reserve(prompt("huge", 2))[1].bytes_missing == 0
    rig.geometry = rig.table.add_geometry([Group(rule=Rule.FULL, shard_bytes=[3 * PAGE_BYTES])])
    assert rig.reserve(prompt("big", 4))[1].bytes_missing == 6 * PAGE_BYTES
    rig.geometry = small
    ticket, _ = rig.lookup(prompt("old", 6))
    assert rig.reserve(prompt("new", 4))[1].bytes_missing == 2 * PAGE_BYTES
    rig.table.close_ticket(ticket, instance=1)
    assert rig.reserve(prompt("new", 4))[1].bytes_missing == 4 * PAGE_BYTES


def test_an_eviction_stops_at_its_number_of_chunks() -> None:
    """DESIGN 9: a step of the loop is bounded by chunks too, not only by bytes."""
    rig = TableRig(pages=8)
    rig.put(prompt("old", 8))
    evicted = rig.table.evict(1 << 40, chunks_max=3, now=0)
    assert (evicted.chunks, evicted.bytes) == (3, 3 * PAGE_BYTES)
    assert rig.hit(prompt("old", 8)) == 5
    assert rig.table.evict(1 << 40, chunks_max=0, now=0).chunks == 0
