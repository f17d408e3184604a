"""Threads: the table has one; handles may die on any."""

from __future__ import annotations

import gc
import select
import threading
from collections.abc import Callable

import pytest
from support.table_rig import TableRig, prompt

from penstock._native import Outcome, WrongThread


def elsewhere(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_a_table_belongs_to_the_thread_of_its_first_call() -> None:
    """The constructor's thread is not it: a node may build its table before it starts its loop."""
    rig = TableRig()
    refused = []

    def call() -> None:
        with pytest.raises(WrongThread) as error:
            rig.hit(prompt("p", 1))
        refused.append(error)

    elsewhere(call)
    assert refused


def test_handles_end_what_they_hold_wherever_they_die() -> None:
    rig, keys = TableRig(pages=8), prompt("p", 2)
    rig.put(keys)
    ticket, _ = rig.lookup(keys)
    reading = rig.acquire(ticket)
    writing, _ = rig.reserve(prompt("w", 3))
    handles = [
        rig.table.lease_handle(reading.lease, session=1),
        rig.table.lease_handle(writing, session=1),
        rig.table.ticket_handle(ticket, instance=1),
    ]
    assert not readable(rig.table.return_fd)
    elsewhere(handles.clear)
    gc.collect()
    assert readable(rig.table.return_fd)
    assert rig.pages_free() == 6, "any call drains them first"
    assert not readable(rig.table.return_fd)
    numbers = rig.table.statistics()
    assert (numbers.leases, numbers.tickets, numbers.returned_handles) == (0, 0, 3)
    assert rig.evict_all() == 2
    rig.table.validate()


def test_a_handle_is_given_back_once_or_forgotten() -> None:
    rig, keys = TableRig(), prompt("p", 1)
    rig.put(keys)
    lease = rig.read(keys).lease
    with rig.table.lease_handle(lease, session=1) as handle:
        handle.give_back()
        handle.give_back()
    assert rig.table.drain() == 1
    kept = rig.read(keys).lease
    rig.table.lease_handle(kept, session=1).forget()
    assert rig.table.drain() == 0
    assert rig.release(kept) is Outcome.OK


def test_a_handle_of_another_session_ends_nothing() -> None:
    """D3 for handles."""
    rig, keys = TableRig(), prompt("p", 1)
    rig.put(keys)
    ticket, _ = rig.lookup(keys)
    lease = rig.acquire(ticket).lease
    rig.table.lease_handle(lease, session=2).give_back()
    rig.table.ticket_handle(ticket, instance=2).give_back()
    assert rig.table.statistics().returned_handles == 2
    assert rig.knows(ticket)
    assert rig.release(lease) is Outcome.OK


def test_handles_outlive_their_table() -> None:
    rig = TableRig()
    lease, _ = rig.reserve(prompt("p", 1))
    handle = rig.table.lease_handle(lease, session=1)
    del rig
    gc.collect()
    handle.give_back()


def test_a_story_tells_what_happened_to_a_chunk() -> None:
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    rig.now = 1.5
    rig.release(rig.read(keys[:1]).lease)
    assert rig.table.story(keys[0]) == [
        "0.000 reserved slot 0",
        "0.000 committed slot 0",
        "1.500 pinned",
        "1.500 unpinned",
    ]
    assert rig.table.story(bytes(32)) == []
    for _ in range(1100):
        rig.release(rig.read(keys[1:]).lease)
    assert rig.table.story(keys[0]) == [], "the ring has turned"
