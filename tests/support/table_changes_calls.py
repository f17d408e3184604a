"""Somebody who follows which chunks the table has, between any other calls; its twin is a set."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from support.table_borrowing_calls import BorrowingCalls

KEY_BYTES = 32


def cut(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


class ChangesCalls(BorrowingCalls):
    """Walk through the chunks there are, step by step, and take what comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[bytes] = set()  # what the follower was told

    def there(self) -> set[bytes]:
        """What lookups can hit, as the twin has it."""
        return {key for key, chunk in self.twin.chunks.items() if chunk.resident()}

    @property
    def follows_all(self) -> bool:
        return self.table.changes_cursor == 1 << 32

    def learn(self, added: bytes, gone: bytes) -> None:
        came, went = cut(added), cut(gone)
        assert len({*came, *went}) == len(came) + len(went), "a chunk was told twice"
        assert self.known.isdisjoint(came), "came, though it was known"
        assert self.known.issuperset(went), "went, though it was not known"
        self.known = (self.known | {*came}) - {*went}

    @rule(records=st.integers(1, 5))
    def begin_walk(self, records: int) -> None:
        self.known.clear()
        self.learn(self.table.resident_keys(0, records).keys, b"")

    @precondition(lambda self: not self.table.changes_lost)
    @rule(records=st.integers(1, 5))
    def walk_on(self, records: int) -> None:
        step = self.table.resident_keys(self.table.changes_cursor, records)
        assert step.is_over == self.follows_all
        self.learn(step.keys, b"")

    @rule(chunks=st.integers(1, 6))
    def take_changes(self, chunks: int) -> None:
        taken = self.table.take_changes(chunks)
        assert len(cut(taken.added)) + len(cut(taken.gone)) <= chunks
        if self.table.changes_lost:
            assert taken.added + taken.gone == b""
        else:
            self.learn(taken.added, taken.gone)

    @precondition(lambda self: self.follows_all)
    @rule()
    def take_all(self) -> None:
        taken = self.table.take_changes(1 << 20)
        self.learn(taken.added, taken.gone)
        assert not self.table.changes_left
        assert self.known == self.there()

    @invariant()
    def nothing_is_silent(self) -> None:
        """Whoever follows all, and is not told that there is more to take, knows all."""
        if self.follows_all and not self.table.changes_due:
            assert self.known == self.there()
