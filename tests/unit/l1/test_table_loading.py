"""What the table does for loads from below: what is missing, whose watermark moves, what is left of a failed load."""

from __future__ import annotations

import math

import pytest

from penstock import _native
from penstock._native import Answer, Group, Outcome, Policy, Presence, Rule, Table

PAGE = 4096
KEYS = b"".join(bytes([number + 1]) * 32 for number in range(6))
ABSENT, RESIDENT, COMING = (
    int(one) for one in (Presence.ABSENT, Presence.RESIDENT, Presence.COMING)
)
TICKET = b"t" * 16


def table_of(*groups: Group, leases_max: int = 16) -> Table:
    table = Table(
        arena_bytes=16 * PAGE,
        objects_max=64,
        policy=Policy.LRU,
        quarantine_bytes_max=16 * PAGE,
        leases_max=leases_max,
    )
    table.add_geometry(groups or (Group(rule=Rule.FULL, shard_bytes=[PAGE]),))
    table.attach(0, instance=0)
    table.attach(1, instance=1)
    return table


def reserve(
    table: Table, first: int, last: int, lease: bytes, *, slots: tuple[int, ...] = (0,)
) -> bytes:
    reserved = table.reserve(
        KEYS[first * 32 : last * 32],
        parent=KEYS[max(0, first - 1) * 32 : first * 32],
        geometry=0,
        slots=slots,
        tenant=0,
        lease=lease * 16,
        session=0,
        now=0.0,
        expires=math.inf,
    )
    return reserved.answers


def load(table: Table, lease: bytes, *indices: int) -> None:
    outcomes = table.loaded(
        lease * 16, session=0, indices=indices, digests=bytes(8 * len(indices)), now=0.0
    )
    assert set(outcomes) == {Outcome.OK}


def open_ticket(table: Table) -> None:
    table.open_ticket(TICKET, geometry=0, instance=1, readers=1, now=0.0, expires=9.0)


def test_presence_tells_of_every_object_what_a_loader_has_to_know() -> None:
    two = (Group(rule=Rule.FULL, shard_bytes=[PAGE, PAGE]),)
    table = table_of(*two)
    reserve(table, 0, 1, b"a", slots=(0, 1))
    table.commit(b"a" * 16, session=0, digests=bytes(16), now=0.0)
    reserve(table, 1, 3, b"b", slots=(1,))
    load(table, b"b", 0)
    assert table.presence(KEYS[: 4 * 32], geometry=0) == bytes(
        [RESIDENT, RESIDENT, ABSENT, COMING, ABSENT, COMING, ABSENT, ABSENT]
    )
    table.validate()


def test_follow_counts_what_is_resident_and_extend_what_is_loaded_too() -> None:
    """LOADED is readable by the tickets that wait for it, and invisible to others."""
    table = table_of()
    open_ticket(table)
    reserve(table, 0, 4, b"a")
    load(table, b"a", 0, 1, 2)
    assert table.follow(TICKET, KEYS, now=0.0) == (0, 4)
    table.commit(b"a" * 16, session=0, indices=(0,), digests=b"", now=0.0)
    assert table.follow(TICKET, KEYS, now=0.0) == (1, 4)
    assert table.extend(TICKET, KEYS[: 2 * 32], now=0.0) == 2  # so far it waits for the load
    assert table.follow(TICKET, KEYS, now=0.0) == (2, 4)
    assert table.extend(TICKET, KEYS, now=0.0) == 3
    table.validate()


@pytest.mark.parametrize("rule", [Rule.WINDOW, Rule.STATE])
def test_follow_moves_only_between_valid_hits(rule: Rule) -> None:
    """A16: beside full attention, a window or a state must be there at the hit."""
    groups = (
        Group(rule=Rule.FULL, shard_bytes=[PAGE]),
        Group(rule=rule, shard_bytes=[PAGE], window_chunks=1),
    )
    table = table_of(*groups)
    open_ticket(table)
    reserve(table, 0, 4, b"a")
    table.commit(b"a" * 16, session=0, digests=bytes(32), now=0.0)
    assert table.follow(TICKET, KEYS, now=0.0) == (0, 0)
    reserve(table, 1, 2, b"b", slots=(1,))
    assert table.follow(TICKET, KEYS, now=0.0) == (0, 2)
    table.commit(b"b" * 16, session=0, digests=bytes(8), now=0.0)
    assert table.follow(TICKET, KEYS, now=0.0) == (2, 2)
    table.validate()


def test_what_is_left_of_a_load_goes_on_and_the_rest_is_held_back_until_its_handle_dies() -> None:
    """A2: whoever may still write holds the old lease; until it dies that memory is nobody's, but the objects' names
    are free to be loaded from elsewhere."""
    table = table_of()
    reserve(table, 0, 4, b"a")
    handle = table.lease_handle(b"a" * 16, session=0)
    load(table, b"a", 0, 2)
    assert table.salvage(b"a" * 16, session=0, into=b"n" * 16)
    table.validate()
    numbers = table.statistics()
    assert (numbers.bytes_loaded, numbers.bytes_quarantined) == (2 * PAGE, 2 * PAGE)
    assert table.presence(KEYS[: 4 * 32], geometry=0) == bytes([COMING, ABSENT, COMING, ABSENT])
    assert reserve(table, 1, 2, b"b") == bytes([Answer.GRANTED])
    committed = table.commit(b"n" * 16, session=0, indices=(0, 2), digests=b"", now=0.0)
    assert set(committed) == {Outcome.OK}
    handle.give_back()
    table.drain()
    assert table.statistics().bytes_quarantined == 0
    table.validate()


def test_nothing_is_left_of_a_load_that_brought_nothing() -> None:
    table = table_of()
    reserve(table, 0, 2, b"a")
    assert not table.salvage(b"a" * 16, session=0, into=b"n" * 16)
    assert not table.salvage(b"a" * 16, session=0, into=b"n" * 16)  # over: nothing happens
    assert table.statistics().bytes_quarantined == 2 * PAGE
    table.validate()


def test_without_a_lease_for_what_is_left_of_a_load_all_of_it_is_lost() -> None:
    """The old lease lasts until nobody writes any more, so that what is whole needs one more."""
    table = table_of(leases_max=1)
    reserve(table, 0, 2, b"a")
    handle = table.lease_handle(b"a" * 16, session=0)
    load(table, b"a", 0)
    assert not table.salvage(b"a" * 16, session=0, into=b"n" * 16)
    numbers = table.statistics()
    assert (numbers.bytes_loaded, numbers.bytes_quarantined) == (0, PAGE)  # one may be written
    table.validate()
    handle.give_back()
    table.drain()
    assert table.statistics().bytes_quarantined == 0
    assert reserve(table, 0, 2, b"b") == bytes([Answer.GRANTED] * 2)


def test_a_step_goes_as_far_as_follow_and_looks_no_further_than_what_comes_next() -> None:
    table = table_of()
    open_ticket(table)
    assert table.step(TICKET, KEYS, now=0.0) == (0, 0)
    reserve(table, 0, 2, b"a")
    hit, promised = table.step(TICKET, KEYS, now=0.0)
    assert hit == 0 < promised <= 2
    table.commit(b"a" * 16, session=0, indices=(0,), digests=bytes(8), now=0.0)
    hit, promised = table.step(TICKET, KEYS, now=0.0)
    assert hit == 1 < promised <= 2
    table.commit(b"a" * 16, session=0, indices=(1,), digests=bytes(8), now=0.0)
    assert table.step(TICKET, KEYS, now=0.0) == (2, 2)
    table.validate()


def test_a_name_that_is_taken_is_refused_before_anything_changes() -> None:
    table = table_of()
    reserve(table, 0, 2, b"a")
    reserve(table, 2, 3, b"b")
    load(table, b"a", 0)
    with pytest.raises(_native.IdTaken):
        table.salvage(b"a" * 16, session=0, into=b"b" * 16)
    assert table.statistics().bytes_quarantined == 0
    table.validate()


def test_a_ticket_is_there_until_it_is_over() -> None:
    table = table_of()
    assert not table.has_ticket(TICKET)
    open_ticket(table)
    assert table.has_ticket(TICKET)
    table.expire(10.0)
    assert not table.has_ticket(TICKET)
