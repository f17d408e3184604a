"""Calls of the node itself, in any order, to the native table and to its twin alike."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from support.borrowing import named_of, objects_of
from support.table_calls import OWN_SESSION, TableCalls, chain, picks, prompts
from support.table_twin_state import PAGE_BYTES, TwinObject

from penstock._native import Borrowed


def seen(borrowed: Borrowed) -> list[tuple[bytes, int, int]]:
    return [(one.key, one.slot, one.digest) for one in objects_of(borrowed)]


def expected(objects: Sequence[TwinObject]) -> list[tuple[bytes, int, int]]:
    return [(one.chunk.key, one.slot, one.digest) for one in objects]


class BorrowingCalls(TableCalls):
    """Borrow, take what was committed, choose and evict victims, drop single objects."""

    def _own(self, lease: bytes) -> dict[str, object]:
        return {"lease": lease, "session": OWN_SESSION, "now": self.now, "expires": inf}

    @rule(geometry=st.integers(0, 2), prompt=prompts)
    def borrow(self, geometry: int, prompt: str) -> None:
        keys, lease = chain(geometry, prompt), self.new_id(self.leases)
        packed = b"".join(keys)
        self.both(
            lambda: seen(self.table.borrow(packed, geometry=geometry, **self._own(lease))),
            lambda: expected(self.twin.borrow(lease, keys, geometry)),
        )

    @precondition(lambda self: self.leases)
    @rule(
        lease=picks,
        session=st.integers(0, 3),
        indices=st.lists(st.integers(0, 8), unique=True, max_size=3).map(sorted),
    )
    def borrow_writing(self, lease: int, session: int, indices: list[int]) -> None:
        """Whatever has become of the lease, and whosever it is."""
        writing, own = self.pick(self.leases, lease), self.new_id(self.leases)
        packed = array("I", indices).tobytes()

        def native() -> object:
            borrowed = self.table.borrow_writing(writing, session, packed, **self._own(own))
            return None if borrowed.is_over else seen(borrowed)

        def twin() -> object:
            lent = self.twin.borrow_writing(own, writing, session, indices)
            return None if lent is None else expected(lent)

        self.both(native, twin)

    @rule(objects=st.integers(1, 4), pages=st.integers(0, 4))
    def take(self, objects: int, pages: int) -> None:
        lease = self.new_id(self.leases)

        def native() -> tuple[object, ...]:
            took = self.table.take_committed(objects, pages * PAGE_BYTES, **self._own(lease))
            return seen(took), named_of(took), took.gone

        def twin() -> tuple[object, ...]:
            held, named, gone = self.twin.take(lease, objects, pages)
            return expected(held), named, gone

        self.both(native, twin)

    @rule(pages=st.integers(1, 8), chunks=st.integers(1, 6), evict=st.booleans())
    def victims(self, pages: int, chunks: int, evict: bool) -> None:
        """And, sometimes, give them back at once and evict them."""
        lease = self.new_id(self.leases)
        chosen = self.table.victims(pages * PAGE_BYTES, chunks, **self._own(lease))
        keys = [chosen.keys[i : i + 32] for i in range(0, len(chosen.keys), 32)]
        assert len(keys) <= chunks
        assert seen(chosen) == expected(self.twin.hold_victims(lease, pages, keys))
        if not evict or not keys:
            return
        self.table.release(lease, session=OWN_SESSION, now=self.now)
        self.twin.release(lease, session=OWN_SESSION, damaged=())
        evicted = self.table.evict_these(chosen.keys, now=self.now)
        assert evicted.keys == b"".join(self.twin.evict_these(keys)) == chosen.keys

    @rule(geometry=st.integers(0, 2), prompt=prompts)
    def evict_these(self, geometry: int, prompt: str) -> None:
        keys = chain(geometry, prompt)[::-1]
        evicted = self.table.evict_these(b"".join(keys), now=self.now).keys
        assert evicted == b"".join(self.twin.evict_these(keys))

    @rule(geometry=st.integers(0, 2), prompt=prompts, slot=st.integers(0, 2))
    def drop_objects(self, geometry: int, prompt: str, slot: int) -> None:
        keys = chain(geometry, prompt)[-2:]
        slots = array("H", [slot] * len(keys)).tobytes()
        dropped = self.table.drop_objects(b"".join(keys), slots)
        assert dropped == self.twin.drop_objects([(key, slot) for key in keys])

    @precondition(lambda self: self.leases)
    @rule(lease=picks)
    def give_back(self, lease: int) -> None:
        lease_id = self.pick(self.leases, lease)
        self.both(
            lambda: self.table.release(lease_id, session=OWN_SESSION, now=self.now),
            lambda: self.twin.release(lease_id, session=OWN_SESSION, damaged=()),
        )

    @precondition(lambda self: self.leases)
    @rule(lease=picks)
    def let_go(self, lease: int) -> None:
        lease_id = self.pick(self.leases, lease)
        self.both(
            lambda: self.table.let_go(lease_id, session=OWN_SESSION, now=self.now),
            lambda: self.twin.let_go(lease_id),
        )

    @invariant()
    def same_news(self) -> None:
        assert self.table.news_waiting == len(self.twin.news)
        assert self.table.news_lost == self.twin.news_lost
