"""What goes wrong in this field, on the level of the table: who may touch which memory, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.table_rig import NEVER, PAGE_BYTES, TableRig, extents, prompt

from penstock._native import Answer, BadArgument, Ended, Outcome, QuarantineFull, SessionUnknown

GIB = 1024**3


def test_a_dead_writers_reservation_never_becomes_kv() -> None:
    """A1. Goal: memory that was reserved and not committed is never served, nor given away early.
    Method: lose the writer's stream between reserve and commit, then its process.
    Seen to fail when an orphaned reservation was committed, and when its pages went free at once.
    """
    rig, keys = TableRig(pages=8), prompt("p", 4)
    lease, _ = rig.reserve(keys)
    rig.table.stream_lost(1)
    assert rig.hit(keys) == 0
    assert (rig.pages_free(), rig.pages_quarantined()) == (4, 4)
    assert rig.table.statistics().chunks == 0
    rig.table.validate()
    assert rig.commit(lease, [1, 2, 3, 4], session=2) == [Outcome.STALE] * 4
    assert (rig.hit(keys), rig.pages_quarantined()) == (0, 4)
    rig.table.process_gone(1)
    assert (rig.pages_free(), rig.pages_quarantined()) == (8, 0)
    rig.table.validate()


def test_a_late_release_drops_nobody_elses_pin() -> None:
    """A3. Goal: releasing a lease twice, or after its end, leaves another reader's object in place.
    Method: two readers; the first releases, again and again; eviction wants everything.
    """
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    first, second = rig.read(keys), rig.read(keys, session=2)
    assert rig.release(first.lease) is Outcome.OK
    for _ in range(3):
        assert rig.release(first.lease) is Outcome.STALE
    assert rig.evict_all() == 0
    assert rig.hit(keys) == 3
    rig.table.validate()
    assert rig.release(second.lease, session=2) is Outcome.OK
    assert rig.evict_all() == 3


def test_an_overdue_reader_keeps_its_memory_and_hears_that_it_is_stale() -> None:
    """A3. Goal: bytes under a running copy are not given to another, however late the copy is.
    Method: let a read lease expire, evict, fill the arena anew: no new extent may overlap.
    """
    rig, keys = TableRig(pages=6), prompt("old", 3)
    rig.put(keys)
    late = rig.read(keys, expires=5)
    assert tuple(rig.table.expire(5)) == (1, 0, 0)
    assert rig.hit(keys) == 3, "overdue is no reason to leave the index"
    evicted = rig.table.evict(1 << 40, now=6)
    assert (evicted.bytes, evicted.quarantined_bytes) == (0, 3 * PAGE_BYTES)
    assert (rig.hit(keys), rig.pages_quarantined()) == (0, 3)
    fresh = rig.put(prompt("new", 3))
    mine = {extent.offset for extent in extents(late.extents)}
    assert not mine & {extent.offset for extent in fresh if extent.bytes}
    assert rig.answers(keys) == [Answer.NO_ROOM] * 3
    assert rig.release(late.lease) is Outcome.STALE
    assert (rig.pages_free(), rig.pages_quarantined()) == (3, 0)
    rig.table.validate()


def test_the_writer_after_an_expired_one_gets_another_extent() -> None:
    """A4. Goal: an expired reservation's memory is not handed out while its writer may write it.
    Method: expire a reservation; reserve the same keys again; commit late with the first lease.
    """
    rig, keys = TableRig(pages=8), prompt("p", 2)
    slow, before = rig.reserve(keys, expires=5)
    assert rig.answers(keys, session=2) == [Answer.IN_FLIGHT] * 2
    rig.table.expire(5)
    quick, after = rig.reserve(keys, session=2)
    assert list(after.answers) == [Answer.GRANTED] * 2
    old = {extent.offset for extent in extents(before.extents)}
    new = {extent.offset for extent in extents(after.extents)}
    assert not old & new
    assert rig.commit(slow, [1, 2]) == [Outcome.STALE] * 2
    assert rig.hit(keys) == 0, "the late commit must not commit the other one's memory"
    assert rig.pages_quarantined() == 0, "but it proves that the first writer is done"
    assert rig.commit(quick, [3, 4], session=2) == [Outcome.OK] * 2
    read = rig.read(keys)
    assert {extent.offset for extent in extents(read.extents)} == new
    assert [extent.digest for extent in extents(read.extents)] == [3, 4]
    rig.table.validate()


def test_no_timer_and_no_bound_frees_quarantined_memory() -> None:
    """A4. Goal: at the quarantine bound the engine gets no more leases; the memory still waits."""
    rig, keys = TableRig(pages=16, quarantine_pages=2), prompt("p", 2)
    rig.put(prompt("other", 2), session=3)
    rig.reserve(keys, expires=5)
    rig.table.expire(1e9)
    with pytest.raises(QuarantineFull, match="8192 bytes of at most 8192"):
        rig.reserve(prompt("more", 1))
    with pytest.raises(QuarantineFull):
        rig.read(prompt("other", 2), session=2)
    assert rig.read(prompt("other", 2), session=3).chunks == 2, "another engine is not concerned"
    rig.table.expire(1e12)
    assert rig.pages_quarantined() == 2
    rig.table.give_up(1)
    assert rig.pages_quarantined() == 0
    assert rig.answers(prompt("more", 1), session=2) == [Answer.GRANTED]


def test_offsets_beyond_4_gib_are_whole(tmp_path: Path) -> None:
    """A20. Goal: no offset or size passes through 32 bits.
    Method: objects of 1.5 GiB in a table of 12 GiB; mark each extent's ends in a sparse file of the
    arena's size; every mark is still there under the extents that a lookup gives.
    """
    pages, object_bytes = 12 * GIB // PAGE_BYTES, 3 * GIB // 2 - 100
    rig, keys = TableRig(pages=pages, object_bytes=object_bytes), prompt("p", 8)
    rig.put(keys)
    read = extents(rig.read(keys).extents)
    assert sorted(extent.offset for extent in read) == [i * 3 * GIB // 2 for i in range(8)]
    assert {extent.bytes for extent in read} == {object_bytes}
    with (tmp_path / "arena").open("w+b") as arena:
        arena.truncate(12 * GIB)
        for name, extent in enumerate(read):
            for place in (extent.offset, extent.offset + extent.bytes - 1):
                os.pwrite(arena.fileno(), bytes([name + 1]), place)
        for name, extent in enumerate(read):
            for place in (extent.offset, extent.offset + extent.bytes - 1):
                assert os.pread(arena.fileno(), 1, place) == bytes([name + 1])
    assert rig.table.statistics().bytes_resident == 12 * GIB
    rig.table.validate()


def test_time_may_be_any_number_but_must_be_one() -> None:
    """C9. Seen to fail, by never returning, when expire looked for what expires at the end of time."""
    rig = TableRig()
    rig.reserve(prompt("p", 1), expires=5)
    with pytest.raises(BadArgument, match="now is not a number"):
        rig.table.expire(float("nan"))
    assert tuple(rig.table.expire(float("-inf"))) == (0, 0, 0)
    assert tuple(rig.table.expire(float("inf"))) == (0, 1, 0)
    assert tuple(rig.table.expire(float("inf"))) == (0, 0, 0)
    rig.table.give_up(1)
    rig.table.attach(1, instance=1)
    lease, _ = rig.reserve(prompt("p", 1))
    assert tuple(rig.table.expire(float("inf"))) == (0, 0, 0), "what never expires does not"
    assert rig.commit(lease, [1]) == [Outcome.OK]


def test_much_that_expires_at_once_is_ended_in_steps() -> None:
    """DESIGN 9: a step of the loop is bounded by objects, not by what a dead engine had open.

    Seen to fail when a step was at least one whole lease.
    """
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    for _ in range(4):
        rig.lookup(keys, expires=5)
        rig.read(keys, expires=5)
    steps = []
    while rig.table.next_expiry() <= 5:
        steps.append(tuple(rig.table.expire(5, objects_max=2)))
        rig.table.validate()
    # A lease and a ticket count as one more than their objects.
    assert steps == [(0, 0, 0), (1, 0, 0)] * 4 + [(0, 0, 1)] * 4


def test_a_dead_reader_does_not_pin_a_hot_key_for_ever() -> None:
    """B6. Goal: expiry is per lease: others' leases of the same key neither end nor prolong it."""
    rig, keys = TableRig(), prompt("hot", 2)
    rig.put(keys)
    rig.read(keys, expires=10)  # its reader dies without a word
    for now in range(1, 10):
        rig.now = now
        other = rig.read(keys, session=2, expires=now + 10)
        rig.table.expire(now)
        assert rig.release(other.lease, session=2) is Outcome.OK
    lasting = rig.read(keys, session=2, expires=1000)
    assert tuple(rig.table.expire(10)) == (1, 0, 0)
    assert rig.evict_all() == 0, "the other lease still pins it"
    assert rig.release(lasting.lease, session=2) is Outcome.OK
    evicted = rig.table.evict(1 << 40, now=11)
    assert evicted.chunks == 2, "evictable, though its memory waits for the dead one"
    assert rig.pages_quarantined() == 2
    rig.table.process_gone(1)
    assert rig.pages_free() == 64
    rig.table.validate()


def test_no_room_is_answered_at_once_and_says_how_much_is_missing() -> None:
    """B17. Goal: a full arena answers NO_ROOM in the same call; evicting just what is missing is
    enough. Nothing beyond the first hole is granted.
    """
    rig = TableRig(pages=4)
    rig.put(prompt("old", 3))
    keys = prompt("new", 4)
    lease, reserved = rig.reserve(keys)
    assert list(reserved.answers) == [Answer.GRANTED] + [Answer.NO_ROOM] * 3
    assert reserved.bytes_missing == 3 * PAGE_BYTES
    assert rig.table.evict(reserved.bytes_missing, now=1).bytes == 3 * PAGE_BYTES
    rest, again = rig.reserve(keys[1:], parent=keys[0])
    assert list(again.answers) == [Answer.GRANTED] * 3
    assert again.bytes_missing == 0
    rig.commit(lease, [1])
    rig.commit(rest, [2, 3, 4])
    assert rig.hit(keys) == 4
    rig.table.validate()


def test_nobody_ends_anybody_elses_lease_or_ticket() -> None:
    """D3. Goal: ids are compared whole and count only for the session or instance they are of."""
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    ticket, _ = rig.lookup(keys)
    reading = rig.acquire(ticket, session=1)
    writing, _ = rig.reserve(prompt("w", 1))
    for session in (2, 3, 77):
        assert rig.release(reading.lease, session=session) is Outcome.STALE
        assert rig.commit(writing, [1], session=session) == [Outcome.STALE]
        assert rig.table.abort(writing, session=session) is Outcome.STALE
    for place in (0, 7, 8, 15):
        near = bytearray(reading.lease)
        near[place] ^= 1
        assert rig.release(bytes(near)) is Outcome.STALE
    assert rig.table.close_ticket(ticket, instance=2) is Outcome.STALE
    # A lease of one kind is not one of the other.
    assert rig.release(writing) is Outcome.STALE
    assert rig.table.abort(reading.lease, session=1) is Outcome.STALE
    rig.table.validate()
    assert rig.release(reading.lease) is Outcome.OK
    assert rig.commit(writing, [1]) == [Outcome.OK]
    assert rig.knows(ticket)


def test_a_session_that_is_over_gets_nothing_more() -> None:
    """D3. Goal: a lost or ended session can neither read nor write, until it is attached anew."""
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    ticket, _ = rig.lookup(keys)
    rig.table.stream_lost(1)
    for _ in range(2):
        with pytest.raises(SessionUnknown):
            rig.reserve(prompt("w", 1))
        with pytest.raises(SessionUnknown):
            rig.acquire(ticket)
        rig.table.process_gone(1)
    with pytest.raises(SessionUnknown):
        rig.table.stream_lost(1)
    rig.table.attach(1, instance=1)
    assert rig.acquire(ticket).chunks == 2


def test_a_tenant_cannot_fill_the_cache() -> None:
    """D6. Goal: quotas in bytes, enforced at reserve, per tenant; what is freed may be used again."""
    rig = TableRig(pages=16)
    rig.table.set_quota(1, 5 * PAGE_BYTES - 1)
    keys = prompt("greedy", 8)
    lease, reserved = rig.reserve(keys, tenant=1)
    assert list(reserved.answers) == [Answer.GRANTED] * 4 + [Answer.QUOTA] * 4
    assert reserved.bytes_missing == 0, "evicting others would not help"
    assert rig.table.bytes_of(1) == 4 * PAGE_BYTES
    rig.commit(lease, [1, 2, 3, 4])
    assert rig.answers(prompt("x", 1), tenant=1) == [Answer.QUOTA]
    assert rig.answers(prompt("x", 12), tenant=2) == [Answer.GRANTED] * 12
    rig.table.evict(PAGE_BYTES, now=1)
    assert rig.table.bytes_of(1) == 3 * PAGE_BYTES
    assert rig.answers(prompt("x", 2), tenant=1) == [Answer.GRANTED, Answer.QUOTA]
    rig.table.set_quota(1, 0)
    assert rig.answers(prompt("x", 2), tenant=1) == [Answer.GRANTED] * 2
    rig.table.validate()


def test_a_session_may_be_ended_in_steps() -> None:
    """B5, DESIGN 9: a process that held very much is ended part by part, to the same effect as at once.

    Seen to fail when a step was at least one whole lease.
    """
    rig = TableRig()
    for name in "abcde":
        rig.reserve(prompt(name, 3))
    rig.put(prompt("read", 2))
    rig.read(prompt("read", 2))
    orphaned = in_steps(rig, lambda: rig.table.orphan_some(1, 2))
    assert (sum(orphaned), max(orphaned)) == (6, 1)
    assert len(orphaned) > 17 // 2, "no step had more than two objects"
    assert rig.table.stream_lost(1) == 6
    assert rig.table.statistics().bytes_quarantined == 15 * PAGE_BYTES
    ended = in_steps(rig, lambda: rig.table.end_some(1, 2))
    assert (sum(ended), max(ended)) == (6, 1)
    assert len(ended) > 17 // 2
    assert rig.table.process_gone(1) == 0
    assert rig.table.statistics().bytes_quarantined == 0
    for over in (1, 77):
        for step in (rig.table.orphan_some(over, 1), rig.table.end_some(over, 1)):
            assert (step.count, step.is_over) == (0, True)
    rig.table.validate()


def in_steps(rig: TableRig, step: Callable[[], Ended]) -> list[int]:
    """What each step counted; the table holds together after every one."""
    counts = []
    is_over = False
    while not is_over:
        ended = step()
        rig.table.validate()
        counts.append(ended.count)
        is_over = ended.is_over
    return counts


def test_a_lease_half_way_to_its_end_is_over_to_its_owner() -> None:
    """B6, DESIGN 5: from the first step on a call that names it changes nothing for anyone else, and no extent is free
    that it still holds.
    """
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    reading = rig.read(keys, session=3, expires=9)
    writing, _ = rig.reserve(prompt("w", 3), session=3, expires=9)
    rig.table.orphan_some(3, 2)
    rig.table.validate()
    assert rig.pages_quarantined() == 1, "what was not reached is as it was"
    assert rig.commit(writing, [1, 2, 3], session=3) == [Outcome.STALE] * 3
    rig.table.validate()
    assert rig.pages_quarantined() == 0, "its owner proved that it writes no more"
    rig.table.end_some(3, 2)
    rig.table.validate()
    assert rig.table.statistics().bytes_pinned == 2 * PAGE_BYTES
    assert rig.table.next_expiry() == NEVER, "its end is bound to follow"
    assert rig.release(reading.lease, session=3) is Outcome.STALE
    rig.table.validate()
    assert rig.table.statistics().bytes_pinned == 0


def test_the_tickets_of_an_instance_end_in_steps() -> None:
    """B5, DESIGN 9: with its last session, or when nobody is left to use them. Seen to fail: all in one step."""
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    for _ in range(4):
        rig.lookup(keys)
    assert in_steps(rig, lambda: rig.table.close_some(1, 8)) == [2, 2]
    for _ in range(4):
        rig.lookup(keys)
    assert in_steps(rig, lambda: rig.table.end_some(2, 8)) == [0], "another session is left"
    rig.table.process_gone(2)
    assert in_steps(rig, lambda: rig.table.end_some(1, 8)) == [0, 0]
    assert rig.table.statistics().tickets == 0
    assert rig.table.close_some(77, 1).is_over


def test_making_ready_changes_nothing_that_can_be_seen() -> None:
    """Whatever the table has room for: parts beyond the end, too, and keys that are there already."""
    rig = TableRig(pages=8, objects_max=8)
    rig.put(prompt("p", 3))
    before = rig.table.statistics()
    for start in (0, 2, 1 << 20):
        rig.table.make_ready(
            b"".join(prompt("p", 12)), geometry=rig.geometry, slots=[0], chunks_before=start
        )
        rig.table.validate()
    after = rig.table.statistics()
    assert (after.bytes_free, after.chunks, after.metadata_bytes) == (
        before.bytes_free,
        before.chunks,
        before.metadata_bytes,
    )
    with pytest.raises(BadArgument, match="slot 1"):
        rig.table.make_ready(prompt("p", 1)[0], geometry=rig.geometry, slots=[1])
