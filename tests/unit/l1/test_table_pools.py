"""Two pools in one arena: what other nodes push has a room of its own, and it always drains."""

from __future__ import annotations

import math
from array import array

import pytest

from penstock._native import Answer, BadArgument, Group, Outcome, Policy, Pool, Rule, Table

PAGE = 4096
CACHE_PAGES, PD_PAGES = 4, 3
KEYS = [bytes([number + 1]) * 32 for number in range(12)]
TICKET = b"t" * 16


class Rig:
    """Session 0 is the node's, 1 an engine's. One group; an object takes a page."""

    def __init__(
        self,
        *,
        pd_pages: int = PD_PAGES,
        tenant_pages: int = 0,
        objects_max: int = 64,
        pd_objects_max: int = 64,
    ) -> None:
        self.table = Table(
            arena_bytes=CACHE_PAGES * PAGE,
            pd_bytes=pd_pages * PAGE,
            objects_max=objects_max,
            pd_objects_max=pd_objects_max if pd_pages else 0,
            policy=Policy.LRU,
            quarantine_bytes_max=16 * PAGE,
        )
        self.table.add_geometry([Group(rule=Rule.FULL, shard_bytes=[PAGE])])
        self.table.attach(0, instance=0)
        self.table.attach(1, instance=1)
        self.table.set_quota(7, tenant_pages * PAGE)
        self.bytes_missing = 0

    def reserve(
        self, first: int, last: int, lease: bytes, *, pool: Pool, tenant: int = 0
    ) -> tuple[list[Answer], list[int]]:
        """Answers, and where the granted ones lie, in pages."""
        reserved = self.table.reserve(
            b"".join(KEYS[first:last]),
            parent=b"",
            geometry=0,
            slots=(0,),
            tenant=tenant,
            lease=lease * 16,
            session=0,
            now=0.0,
            expires=math.inf,
            pool=pool,
        )
        self.bytes_missing = reserved.bytes_missing
        answers = [Answer(answer) for answer in reserved.answers]
        offsets = array("Q", reserved.extents)[0::3]
        pages = zip(offsets, answers, strict=True)
        return answers, sorted(at // PAGE for at, answer in pages if answer == Answer.GRANTED)

    def put(self, first: int, last: int, lease: bytes) -> None:
        self.reserve(first, last, lease, pool=Pool.CACHE)
        digests = bytes(8 * (last - first))
        self.table.commit(lease * 16, session=0, digests=digests, now=0.0)

    def load(self, lease: bytes, count: int) -> None:
        self.table.loaded(lease * 16, session=0, digests=bytes(8 * count), now=0.0)

    def pd_pages(self) -> tuple[int, int, int, int]:
        """Free, reserved, loaded, quarantined."""
        seen = self.table.statistics()
        numbers = (
            seen.pd_bytes_free,
            seen.pd_bytes_reserved,
            seen.pd_bytes_loaded,
            seen.pd_bytes_quarantined,
        )
        self.table.validate()
        free, reserved, loaded, quarantined = (number // PAGE for number in numbers)
        return free, reserved, loaded, quarantined


def test_each_pool_gives_only_its_own_pages() -> None:
    """B13: a cache that is full takes nothing from what pushes need, and the reverse."""
    rig = Rig()
    answers, pages = rig.reserve(0, 6, b"a", pool=Pool.CACHE)
    assert (answers.count(Answer.GRANTED), pages) == (CACHE_PAGES, [0, 1, 2, 3])
    answers, pages = rig.reserve(6, 10, b"b", pool=Pool.PD)
    assert answers == [Answer.GRANTED] * PD_PAGES + [Answer.NO_ROOM]
    assert pages == [4, 5, 6]
    assert rig.pd_pages() == (0, 3, 0, 0)
    seen = rig.table.statistics()
    assert (seen.bytes_total, seen.bytes_reserved) == (CACHE_PAGES * PAGE, CACHE_PAGES * PAGE)
    assert rig.table.free_bytes == 0


def test_no_room_tells_what_the_pool_could_hold_and_asks_nothing_of_eviction() -> None:
    rig = Rig()
    rig.put(0, CACHE_PAGES, b"a")  # could all be evicted
    rig.reserve(6, 8, b"b", pool=Pool.PD)
    answers, _ = rig.reserve(8, 10, b"c", pool=Pool.PD)
    assert answers == [Answer.GRANTED, Answer.NO_ROOM]
    assert rig.bytes_missing == PAGE
    answers, _ = rig.reserve(10, 12, b"d", pool=Pool.PD)
    assert rig.bytes_missing == 2 * PAGE
    rig.table.abort(b"c" * 16, session=0)
    rig.reserve(8, 12, b"e", pool=Pool.PD)
    assert rig.bytes_missing == 2 * PAGE  # the fourth would not fit beside the others, ever
    assert rig.table.evict(1 << 40, now=0.0).bytes == CACHE_PAGES * PAGE
    assert rig.pd_pages()[0] == 0


def test_a_tenant_is_not_charged_for_what_is_pushed_to_it() -> None:
    rig = Rig(tenant_pages=1)
    answers, _ = rig.reserve(0, 3, b"a", pool=Pool.PD, tenant=7)
    assert answers == [Answer.GRANTED] * 3
    assert rig.table.bytes_of(7) == 0
    answers, _ = rig.reserve(3, 5, b"b", pool=Pool.CACHE, tenant=7)
    assert answers == [Answer.GRANTED, Answer.QUOTA]
    assert rig.table.bytes_of(7) == PAGE
    rig.table.validate()


def test_what_landed_is_read_by_its_ticket_and_gone_with_lease_and_reader() -> None:
    """The pool always drains."""
    rig = Rig()
    rig.table.open_ticket(TICKET, geometry=0, instance=1, readers=1, now=0.0, expires=9.0)
    rig.reserve(0, 2, b"a", pool=Pool.PD)
    handle = rig.table.lease_handle(b"a" * 16, session=0)
    rig.load(b"a", 2)
    keys = b"".join(KEYS[:2])
    assert rig.table.extend(TICKET, keys, now=0.0) == 2
    assert rig.table.peek(keys, geometry=0) == 0  # nobody else's
    acquired = rig.table.acquire(
        TICKET,
        rank=0,
        slots=(0,),
        first_chunk=0,
        lease=b"r" * 16,
        session=1,
        now=0.0,
        expires=9.0,
    )
    assert acquired.chunks == 2
    assert rig.pd_pages() == (1, 0, 2, 0)
    handle.give_back()
    rig.table.close_ticket(TICKET, instance=1)
    assert rig.pd_pages() == (1, 0, 0, 2)
    assert rig.table.release(acquired.lease, session=1, damaged=(), now=0.0) == Outcome.OK
    assert rig.pd_pages() == (3, 0, 0, 0)


def test_what_is_pushed_is_never_committed() -> None:
    rig = Rig()
    rig.reserve(0, 2, b"a", pool=Pool.PD)
    rig.load(b"a", 2)
    with pytest.raises(BadArgument, match="temporary"):
        rig.table.commit(b"a" * 16, session=0, digests=b"", now=0.0)
    assert rig.pd_pages() == (1, 0, 2, 0)


def test_pushed_and_cached_objects_of_one_chunk_stay_apart() -> None:
    """A chunk has an object in each pool: evicting takes one, the end of the transfer the other."""
    rig = Rig()
    number = rig.table.add_geometry([Group(rule=Rule.FULL, shard_bytes=[PAGE, PAGE])])
    names = {"parent": b"", "geometry": number, "tenant": 0, "session": 0}
    times = {"now": 0.0, "expires": math.inf}
    one = {**names, **times}
    rig.table.reserve(KEYS[0], slots=(0,), lease=b"a" * 16, **one)
    rig.table.commit(b"a" * 16, session=0, digests=bytes(8), now=0.0)
    rig.table.reserve(KEYS[0], slots=(1,), lease=b"b" * 16, pool=Pool.PD, **one)
    rig.load(b"b", 1)
    assert rig.table.evict(1 << 40, now=0.0).chunks == 0  # something of it is on its way
    assert rig.pd_pages() == (2, 0, 1, 0)
    rig.table.abort(b"b" * 16, session=0)
    assert rig.pd_pages() == (3, 0, 0, 0)
    assert rig.table.evict(1 << 40, now=0.0).bytes == PAGE
    rig.table.validate()


def test_a_load_that_failed_in_part_keeps_its_memory_in_its_pool() -> None:
    """What was lost stays quarantined until its writer is proven done; what is whole goes on."""
    rig = Rig()
    rig.reserve(0, 3, b"a", pool=Pool.PD)
    rig.table.loaded(b"a" * 16, session=0, indices=(0,), digests=bytes(8), now=0.0)
    assert rig.table.salvage(b"a" * 16, session=0, into=b"b" * 16)
    assert rig.pd_pages() == (0, 0, 1, 2)
    with pytest.raises(BadArgument, match="temporary"):
        rig.table.commit(b"b" * 16, session=0, digests=b"", now=0.0)
    rig.table.abort(b"a" * 16, session=0)
    rig.table.abort(b"b" * 16, session=0)
    assert rig.pd_pages() == (3, 0, 0, 0)


def test_a_loader_that_begins_anew_forsakes_its_own_pool_alone() -> None:
    rig = Rig()
    rig.reserve(0, 2, b"a", pool=Pool.CACHE)
    rig.reserve(2, 4, b"b", pool=Pool.PD)
    assert rig.table.forsake_some(0, 100).is_over
    assert rig.pd_pages() == (1, 2, 0, 0)
    assert rig.table.statistics().bytes_quarantined == 2 * PAGE
    assert rig.table.forsake_some(0, 100, Pool.PD).is_over
    assert rig.pd_pages() == (1, 0, 0, 2)


def test_without_such_a_pool_there_is_no_room_in_it() -> None:
    rig = Rig(pd_pages=0)
    answers, _ = rig.reserve(0, 1, b"a", pool=Pool.PD)
    assert answers == [Answer.NO_ROOM]
    assert rig.bytes_missing == 0
    assert rig.pd_pages() == (0, 0, 0, 0)


@pytest.mark.parametrize("pd_bytes", [1, PAGE + 1, 8 << 40])
def test_a_pool_of_a_size_that_cannot_be_is_refused(pd_bytes: int) -> None:
    with pytest.raises(BadArgument, match="pd_bytes"):
        Table(
            arena_bytes=PAGE,
            pd_bytes=pd_bytes,
            objects_max=1,
            pd_objects_max=1,
            policy=Policy.LRU,
            quarantine_bytes_max=0,
        )


@pytest.mark.parametrize(("pd_bytes", "pd_objects_max"), [(PAGE, 0), (0, 1), (PAGE, 1 << 31)])
def test_a_pool_has_records_of_its_own(pd_bytes: int, pd_objects_max: int) -> None:
    with pytest.raises(BadArgument, match="pd_objects_max"):
        Table(
            arena_bytes=PAGE,
            pd_bytes=pd_bytes,
            objects_max=1,
            pd_objects_max=pd_objects_max,
            policy=Policy.LRU,
            quarantine_bytes_max=0,
        )


def test_neither_pool_takes_the_others_records() -> None:
    """Objects may be small: then records are what runs out, and not memory."""
    rig = Rig(objects_max=2, pd_objects_max=2)
    answers, _ = rig.reserve(0, 3, b"a", pool=Pool.CACHE)
    assert answers == [Answer.GRANTED] * 2 + [Answer.NO_ROOM]
    answers, _ = rig.reserve(4, 7, b"b", pool=Pool.PD)
    assert answers == [Answer.GRANTED] * 2 + [Answer.NO_ROOM]
    rig.table.abort(b"a" * 16, session=0)
    answers, _ = rig.reserve(8, 9, b"c", pool=Pool.PD)
    assert answers == [Answer.NO_ROOM]
    answers, _ = rig.reserve(9, 12, b"d", pool=Pool.CACHE)
    assert answers == [Answer.GRANTED] * 2 + [Answer.NO_ROOM]
    rig.table.validate()
