"""Lookups, tickets and read leases: what a hit is, who may read it, and what damage does."""

from __future__ import annotations

from array import array

import pytest
from support.table_rig import TableRig, extents, prompt

from penstock._native import (
    Answer,
    BadArgument,
    BadKeys,
    GeometryUnknown,
    Group,
    IdTaken,
    Outcome,
    RankTaken,
    Rule,
    SessionUnknown,
    TableFull,
    TicketUnknown,
)

FULL = Group(rule=Rule.FULL, shard_bytes=[100, 5000])
WINDOW = Group(rule=Rule.WINDOW, shard_bytes=[200], window_chunks=2)
STATE = Group(rule=Rule.STATE, shard_bytes=[300])


def test_a_hit_is_the_unbroken_prefix() -> None:
    rig, keys = TableRig(), prompt("p", 6)
    rig.put(keys[:3])
    rig.put(keys[4:], parent=keys[3])
    assert rig.hit(keys) == 3
    assert rig.hit(keys[1:]) == 2
    assert rig.hit(prompt("q", 2)) == 0


def test_a_hit_needs_every_shard_of_every_group_by_its_own_rule() -> None:
    """A16 on one node: slots 0 and 1 are full attention, 2 is a window of two chunks, 3 a state."""
    rig, keys = TableRig(groups=[FULL, WINDOW, STATE]), prompt("p", 6)
    rig.put(keys, slots=[0])
    assert rig.hit(keys) == 0, "the other shard is missing"
    rig.put(keys, slots=[1])
    assert rig.hit(keys) == 0, "window and state are missing"
    rig.put(keys[1:3], slots=[2], parent=keys[0])
    rig.put([keys[2]], slots=[3], parent=keys[1])
    assert rig.hit(keys) == 3
    assert rig.hit(keys[:2]) == 0
    rig.put([keys[5]], slots=[3], parent=keys[4])
    assert rig.hit(keys) == 3, "state at 6, but its window is missing"
    rig.put(keys[4:], slots=[2], parent=keys[3])
    assert rig.hit(keys) == 6
    ticket, hit = rig.lookup(keys)
    assert hit == 6
    read = extents(rig.acquire(ticket, slots=[1, 2, 3]).extents)
    there = [[extent.bytes for extent in read[i : i + 3]] for i in range(0, 18, 3)]
    assert there == [
        [5000, 0, 0], [5000, 200, 0], [5000, 200, 300], [5000, 0, 0], [5000, 200, 0], [5000, 200, 300]
    ]  # fmt: skip
    rig.table.validate()


def test_promised_counts_what_is_being_written() -> None:
    rig, keys = TableRig(), prompt("p", 5)
    rig.put(keys[:2])
    lease, _ = rig.reserve(keys[2:4], parent=keys[1])
    packed = b"".join(keys)
    assert rig.table.promised(packed, geometry=rig.geometry) == 4
    assert rig.hit(keys) == 2
    rig.table.abort(lease, session=1)
    assert rig.table.promised(packed, geometry=rig.geometry) == 2


def test_a_lookup_without_a_hit_opens_no_ticket() -> None:
    rig = TableRig()
    ticket, hit = rig.lookup(prompt("p", 2))
    assert hit == 0
    assert not rig.knows(ticket)


def test_each_rank_has_one_lease_and_gets_it_again() -> None:
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    ticket, _ = rig.lookup(keys, readers=2)
    first = rig.acquire(ticket, rank=0, session=1)
    again = rig.acquire(ticket, rank=0, session=1, first_chunk=2)
    assert (again.lease, again.extents, again.chunks) == (first.lease, first.extents, 3)
    with pytest.raises(RankTaken, match="session 1"):
        rig.acquire(ticket, rank=0, session=2)
    other = rig.acquire(ticket, rank=1, session=2)
    assert other.lease != first.lease
    rig.release(first.lease)
    assert rig.acquire(ticket, rank=0, session=2, first_chunk=1).chunks == 2
    with pytest.raises(BadArgument, match="rank 2"):
        rig.acquire(ticket, rank=2)
    with pytest.raises(TicketUnknown):
        rig.acquire(ticket, session=3)  # another instance's
    rig.table.validate()


def test_a_dead_worker_returns_only_its_slot() -> None:
    """B5. The ticket and the other worker's lease live on; the slot can be taken by another."""
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    ticket, _ = rig.lookup(keys, readers=2)
    rig.acquire(ticket, rank=0, session=1)
    living = rig.acquire(ticket, rank=1, session=2)
    assert rig.table.process_gone(1) == 1
    rig.table.validate()
    assert rig.acquire(ticket, rank=0, session=2).chunks == 2
    assert rig.release(living.lease, session=2) is Outcome.OK


def test_a_ticket_pins_until_it_ends_and_its_leases_outlive_it() -> None:
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    for end in (
        lambda ticket: rig.table.close_ticket(ticket, instance=1),
        lambda _: rig.table.expire(10),
        lambda _: rig.table.instance_gone(1),
    ):
        ticket, _ = rig.lookup(keys, expires=10)
        lease = rig.acquire(ticket).lease
        assert rig.evict_all() == 0
        end(ticket)
        assert not rig.knows(ticket)
        assert rig.evict_all() == 0, "the lease still holds"
        assert rig.release(lease) is Outcome.OK
        rig.table.validate()
    assert rig.evict_all() == 2


def test_damage_takes_an_object_out_of_the_index_and_ends_the_prefix() -> None:
    """A22. Others that read it now keep the memory until they are done; the key can be written."""
    rig, keys = TableRig(pages=8), prompt("p", 4)
    rig.put(keys)
    finder, other = rig.read(keys), rig.read(keys, session=2)
    assert rig.release(finder.lease, damaged=[2]) is Outcome.OK
    assert rig.hit(keys) == 2
    assert rig.pages_quarantined() == 1
    assert rig.table.statistics().damaged_objects == 1
    assert rig.release(other.lease, session=2, damaged=[2]) is Outcome.OK
    assert rig.table.statistics().damaged_objects == 1, "it had left already"
    assert rig.pages_quarantined() == 0
    assert rig.answers(keys[2:3], parent=keys[1]) == [Answer.GRANTED]
    rig.table.validate()


def test_damage_named_wrongly_is_refused_and_changes_nothing() -> None:
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    lease = rig.read(keys).lease
    with pytest.raises(BadArgument, match="extent 2"):
        rig.release(lease, damaged=[0, 2])
    assert rig.hit(keys) == 2
    assert rig.release(lease) is Outcome.OK


def test_a_dropped_chunk_is_no_longer_given_out_and_stays_for_its_readers() -> None:
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    ticket, _ = rig.lookup(keys, readers=2)
    before = rig.acquire(ticket, rank=0)
    assert rig.table.drop(keys[1]) == 1
    assert rig.hit(keys) == 1
    assert rig.pages_quarantined() == 1
    after = extents(rig.acquire(ticket, rank=1).extents)
    assert [extent.bytes > 0 for extent in after] == [True, False, True]
    assert rig.release(before.lease) is Outcome.OK
    assert rig.pages_quarantined() == 0
    rig.table.close_ticket(ticket, instance=1)
    rig.table.validate()


def load(rig: TableRig, lease: bytes, count: int) -> None:
    digests = array("Q", range(1, count + 1)).tobytes()
    outcomes = rig.table.loaded(lease, session=1, digests=digests, now=rig.now)
    assert list(outcomes) == [Outcome.OK] * count


def test_loaded_objects_are_readable_by_the_tickets_of_their_load_only() -> None:
    rig, keys = TableRig(), prompt("p", 4)
    rig.put(keys[:1])
    ticket, _ = rig.lookup(keys)
    lease, _ = rig.reserve(keys[1:], parent=keys[0])
    packed = b"".join(keys)
    assert rig.table.extend(ticket, packed, now=0) == 1
    load(rig, lease, 3)
    assert rig.hit(keys) == 1
    assert rig.table.extend(ticket, packed, now=0) == 4
    read = rig.acquire(ticket)
    assert [extent.digest for extent in extents(read.extents)] == [1, 1, 2, 3]
    assert list(rig.table.commit(lease, session=1, digests=b"", now=0)) == [Outcome.OK] * 3
    assert rig.hit(keys) == 4
    rig.table.validate()


def test_a_loaded_object_that_a_reader_found_damaged_never_becomes_resident() -> None:
    """A8 and A22. Seen to fail when commit forgot the damage."""
    rig, keys = TableRig(pages=4), prompt("p", 2)
    lease, _ = rig.reserve(keys)
    load(rig, lease, 2)
    ticket = rig.new_id()
    rig.table.open_ticket(ticket, geometry=rig.geometry, instance=1, readers=2, now=0, expires=100)
    assert rig.table.extend(ticket, b"".join(keys), now=0) == 2
    finder, other = rig.acquire(ticket, rank=0), rig.acquire(ticket, rank=1, session=2)
    assert rig.release(finder.lease, damaged=[1]) is Outcome.OK
    assert [extent.bytes for extent in extents(rig.acquire(ticket).extents)] == [4096, 0]
    outcomes = rig.table.commit(lease, session=1, digests=b"", now=0)
    assert list(outcomes) == [Outcome.OK, Outcome.STALE]
    assert rig.hit(keys) == 1
    assert rig.pages_quarantined() == 1, "the other reader has it still"
    rig.table.validate()
    assert rig.release(other.lease, session=2) is Outcome.OK
    assert rig.pages_free() == 3


def test_a_load_that_ends_early_leaves_its_readers_their_memory() -> None:
    rig, keys = TableRig(pages=4), prompt("p", 2)
    lease, _ = rig.reserve(keys, expires=5)
    load(rig, lease, 2)
    ticket = rig.new_id()
    rig.table.open_ticket(ticket, geometry=rig.geometry, instance=1, readers=1, now=0, expires=100)
    rig.table.extend(ticket, b"".join(keys), now=0)
    reading = rig.acquire(ticket)
    assert tuple(rig.table.expire(5)) == (0, 1, 0)
    assert (rig.hit(keys), rig.pages_quarantined()) == (0, 2)
    assert rig.release(reading.lease) is Outcome.OK
    assert rig.pages_free() == 4
    assert rig.table.statistics().overdue_leases == 0, "nothing of it was still being written"
    rig.table.validate()


def test_extend_wants_the_prompt_of_the_ticket() -> None:
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys[:2])
    ticket, _ = rig.lookup(keys)
    with pytest.raises(BadKeys, match="1 keys for a ticket of 2"):
        rig.table.extend(ticket, keys[0], now=0)
    with pytest.raises(BadKeys, match="not those of the ticket"):
        rig.table.extend(ticket, b"".join(prompt("q", 3)), now=0)
    assert rig.table.extend(ticket, b"".join(keys), now=0) == 2
    with pytest.raises(TicketUnknown):
        rig.table.extend(bytes(16), b"".join(keys), now=0)


def test_what_another_geometry_wrote_is_absent_to_a_reader() -> None:
    """A8: a session of another geometry may write any key. It never makes an error of what others read."""
    rig, keys = TableRig(), prompt("p", 4)
    rig.put(keys[:2])
    own, packed = rig.geometry, b"".join(keys)
    ticket, _ = rig.lookup(keys)
    lease, _ = rig.reserve(keys[2:3])
    rig.geometry = rig.table.add_geometry([FULL])
    rig.put(keys[3:])
    assert rig.table.peek(packed, geometry=own) == 2
    assert rig.table.promised(packed, geometry=own) == 3
    assert rig.table.extend(ticket, packed, now=0) == 2
    assert rig.table.commit(lease, session=1, indices=[0], digests=bytes(8), now=0) == bytes(1)
    assert rig.table.extend(ticket, packed, now=0) == 3
    rig.geometry = own
    assert rig.lookup(keys)[1] == 3
    assert rig.table.peek(packed, geometry=own + 1) == 0
    rig.table.validate()


def test_refusals_of_lookups_say_what_is_wrong() -> None:
    rig, keys = TableRig(tickets_max=1, leases_max=1), prompt("p", 2)
    rig.put(keys)
    for readers in (0, 129):
        with pytest.raises(BadArgument, match=f"{readers} readers: give 1 to 128"):
            rig.lookup(keys, readers=readers)
    with pytest.raises(SessionUnknown, match="instance 9"):
        rig.lookup(keys, instance=9)
    with pytest.raises(BadArgument, match="expires is not a number"):
        rig.lookup(keys, expires=float("nan"))
    with pytest.raises(BadKeys, match="33 bytes"):
        rig.table.peek(bytes(33), geometry=rig.geometry)
    with pytest.raises(BadKeys, match="0 keys"):
        rig.table.peek(b"", geometry=rig.geometry)
    with pytest.raises(GeometryUnknown, match="geometry 7 was never added"):
        rig.table.peek(keys[0], geometry=7)
    ticket, _ = rig.lookup(keys)
    with pytest.raises(TableFull, match="raise tickets_max"):
        rig.lookup(keys)
    with pytest.raises(BadArgument, match="slot 1 of a geometry with 1 slots"):
        rig.acquire(ticket, slots=[1])
    with pytest.raises(BadArgument, match="no slots"):
        rig.acquire(ticket, slots=[])
    with pytest.raises(BadArgument, match="first_chunk 3"):
        rig.acquire(ticket, first_chunk=3)
    rig.acquire(ticket)
    with pytest.raises(TableFull, match="raise leases_max"):
        rig.reserve(prompt("q", 1))
    rig.table.validate()


def test_an_id_in_use_is_refused() -> None:
    rig, keys = TableRig(), prompt("p", 1)
    rig.put(keys)
    options = {"geometry": rig.geometry, "instance": 1, "readers": 1, "now": 0, "expires": 1}
    rig.table.lookup(keys[0], ticket=b"t" * 16, **options)
    with pytest.raises(IdTaken, match="draw another"):
        rig.table.lookup(keys[0], ticket=b"t" * 16, **options)
    with pytest.raises(BadArgument, match="15 bytes"):
        rig.table.lookup(keys[0], ticket=b"t" * 15, **options)
