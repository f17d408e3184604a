"""What a tenant at its quota gives up for itself, what a loader's next life gives up for it, and whose end is told."""

from __future__ import annotations

import pytest
from support.table_rig import NEVER, PAGE_BYTES, TableRig, prompt

from penstock._native import Answer, Policy, Presence, TicketUnknown

OWN, OTHER = 1, 2


def rig_with_quota(pages: int, *, policy: Policy = Policy.LRU) -> TableRig:
    rig = TableRig(pages=64, policy=policy)
    rig.table.set_quota(OWN, pages * PAGE_BYTES)
    return rig


def split(keys: bytes, width: int = 32) -> list[bytes]:
    return [keys[start : start + width] for start in range(0, len(keys), width)]


def evict_own(rig: TableRig, pages: int) -> list[bytes]:
    evicted = rig.table.evict_own(OWN, pages * PAGE_BYTES, now=rig.now)
    rig.table.validate()
    assert evicted.is_over == (not evicted.chunks)
    return split(evicted.keys)


@pytest.mark.parametrize("policy", [*Policy.__members__.values()])
def test_a_tenant_at_its_quota_gives_up_its_own(policy: Policy) -> None:
    """D6. Goal: room under a quota is made among the tenant's own: prompts idle longest first, each from its end."""
    rig = rig_with_quota(8, policy=policy)
    old, new, others = prompt("old", 4), prompt("new", 4), prompt("others", 8)
    rig.put(others, tenant=OTHER)
    rig.put(old, tenant=OWN)
    rig.put(new, tenant=OWN)
    _, refused = rig.reserve(prompt("next", 3), tenant=OWN)
    assert list(refused.answers) == [Answer.QUOTA] * 3
    assert (refused.bytes_missing, refused.own_bytes_missing) == (0, 3 * PAGE_BYTES)
    assert evict_own(rig, 3) == old[:0:-1]
    assert rig.answers(prompt("next", 3), tenant=OWN) == [Answer.GRANTED] * 3
    assert evict_own(rig, 2) == [old[0], new[3]]
    assert evict_own(rig, 64) == new[2::-1]
    assert evict_own(rig, 64) == []
    assert rig.hit(others) == 8
    assert rig.table.bytes_of(OTHER) == 8 * PAGE_BYTES


def test_what_was_read_last_is_given_up_last() -> None:
    rig = rig_with_quota(8)
    one, two = prompt("one", 4), prompt("two", 4)
    for keys in (one, two):
        rig.put(keys, tenant=OWN)
    ticket, _ = rig.lookup(one)
    assert evict_own(rig, 64) == two[::-1], "what a ticket holds was given up"
    rig.table.close_ticket(ticket, instance=1)
    rig.put(two, tenant=OWN)
    ticket, _ = rig.lookup(one)
    rig.table.close_ticket(ticket, instance=1)
    assert evict_own(rig, 1) == [two[3]]


def test_more_than_a_quota_is_not_missing() -> None:
    """Goal: what could never fit beside all that the tenant keeps is not asked for."""
    rig = rig_with_quota(4)
    rig.put(prompt("held", 4), tenant=OWN)
    _, refused = rig.reserve(prompt("large", 6), tenant=OWN)
    assert refused.own_bytes_missing == 4 * PAGE_BYTES


def test_a_tenants_own_is_held_as_other_victims_are() -> None:
    rig = rig_with_quota(4)
    keys = prompt("saved first", 3)
    rig.put(keys, tenant=OWN)
    rig.put(prompt("others", 4), tenant=OTHER)
    lease = rig.new_id()
    options = {"session": 1, "now": 0.0, "expires": NEVER}
    borrowed = rig.table.victims_own(OWN, 2 * PAGE_BYTES, 64, lease=lease, **options)
    assert split(borrowed.keys) == [keys[2], keys[1]]
    assert evict_own(rig, 64) == [], "the parent of what is held"
    assert rig.hit(keys) == 3
    rig.release(lease)
    assert split(rig.table.evict_these(borrowed.keys, now=0.0).keys) == [keys[2], keys[1]]
    rig.table.validate()
    nothing = rig.table.victims_own(3, PAGE_BYTES, 64, lease=rig.new_id(), **options)
    assert (nothing.count, nothing.is_over) == (0, True)


def test_a_quota_that_ends_keeps_no_list() -> None:
    rig = rig_with_quota(4)
    rig.put(prompt("before", 2), tenant=OWN)
    rig.table.set_quota(OWN, 0)
    rig.put(prompt("after", 2), tenant=OWN)
    rig.table.validate()
    assert evict_own(rig, 64) == prompt("before", 2)[::-1]
    rig.table.evict(64 * PAGE_BYTES, now=0.0)
    rig.table.validate()
    assert rig.table.bytes_of(OWN) == 0


def test_a_loader_that_begins_anew_forsakes_reservations_and_keeps_what_is_read() -> None:
    """Goal: in bounded steps the objects leave the index; their memory stays with whoever may still write."""
    rig = TableRig(pages=32)
    read = prompt("read", 4)
    rig.put(read)
    acquired = rig.read(read)
    reserved, loaded = prompt("reserved", 6), prompt("loaded", 3)
    first, _ = rig.reserve(reserved)
    second, _ = rig.reserve(loaded)
    rig.table.loaded(second, session=1, digests=bytes(24), now=0.0)
    handle = rig.table.lease_handle(first, session=1)
    steps = 1
    while not rig.table.forsake_some(1, 2).is_over:
        rig.table.validate()
        steps += 1
    assert steps >= 4
    for keys in (reserved, loaded):
        presence = rig.table.presence(b"".join(keys), geometry=rig.geometry)
        assert set(presence) == {Presence.ABSENT}
    seen = rig.table.statistics()
    assert (seen.bytes_quarantined, seen.bytes_reserved, seen.bytes_loaded) == (24576, 0, 0)
    assert rig.answers(reserved) == [Answer.GRANTED] * 6, "the session is over"
    assert rig.release(acquired.lease).name == "OK", "what is read was given up, too"
    handle.give_back()
    assert rig.table.statistics().bytes_quarantined == 0
    rig.table.validate()


def test_the_table_tells_which_tickets_ended() -> None:
    """Goal: by time, and with their instance; not those that were closed by name, nor any that nobody asked for."""
    rig = TableRig()
    keys = prompt("p", 2)
    rig.put(keys)
    late, _ = rig.lookup(keys, expires=5.0)
    closed, _ = rig.lookup(keys, expires=5.0)
    untold, _ = rig.lookup(keys, expires=5.0)
    gone, _ = rig.lookup(keys, instance=2)
    for ticket in (late, closed, gone):
        rig.table.tell_end(ticket)
    assert rig.table.take_ended() == b""
    rig.table.close_ticket(closed, instance=1)
    rig.table.expire(5.0)
    assert not rig.table.has_ticket(untold)
    rig.table.instance_gone(2)
    assert split(rig.table.take_ended(), 16) == [late, gone]
    assert rig.table.take_ended() == b""
    with pytest.raises(TicketUnknown):
        rig.table.tell_end(late)
