"""The receive budget: whole requests, one after the other; nobody half there, nobody starved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.actors.core.pd_budget import Admitted, OverBudget, ReceiveBudget, tokens_held


def budget(bytes_max: int = 100, ageing_s: float = 10.0) -> ReceiveBudget[str]:
    return ReceiveBudget(bytes_max, ageing_s=ageing_s)


def test_whole_requests_are_admitted_in_order_and_none_past_one_that_waits() -> None:
    """B13: two that would be half there wait for each other for ever; the second waits with nothing."""
    book = budget()
    for name, size in (("a", 60), ("b", 60), ("c", 10)):
        book.ask(name, size, priority=0, now=0)
    assert book.admit(1) == [Admitted("a", 60)]
    assert book.waiting == 2
    book.give_back("a", 60)
    assert book.admit(2) == [Admitted("b", 60), Admitted("c", 10)]


def test_two_receivers_full_of_each_others_requests_make_progress() -> None:
    """B13: each node's budget is its own, so what waits at one holds nothing of the other."""
    books = [budget(), budget()]
    left = {0: 3, 1: 3}
    for book in books:
        for number in range(3):
            book.ask(f"r{number}", 70, priority=0, now=number)
    for turn in range(6):
        at = turn % 2
        (admitted,) = books[at].admit(turn)
        books[at].give_back(admitted.name, admitted.bytes)
        left[at] -= 1
    assert left == {0: 0, 1: 0}


def test_the_more_important_is_first_and_waiting_counts() -> None:
    book = budget(ageing_s=10)
    book.ask("held", 100, priority=0, now=0)
    book.admit(0)
    book.ask("old", 100, priority=0, now=0)
    book.ask("urgent", 100, priority=2, now=15)
    book.ask("later", 100, priority=2, now=21)
    book.give_back("held", 100)
    assert book.admit(21) == [Admitted("urgent", 100)]
    book.give_back("urgent", 100)
    assert book.admit(22) == [Admitted("old", 100)], "it has waited for more than two priorities"


def test_what_is_larger_than_the_budget_is_refused_at_once() -> None:
    book = budget()
    with pytest.raises(OverBudget, match="101 bytes are needed at a time, the budget has 100"):
        book.ask("a", 101, priority=0, now=0)
    assert book.waiting == 0


def test_windows_come_as_there_is_room() -> None:
    book = budget()
    book.ask("a", 250, priority=0, now=0, window_bytes=40)
    assert book.admit(0) == [Admitted("a", 100)]
    book.ask("b", 10, priority=9, now=1)
    book.give_back("a", 30)
    assert book.admit(2) == [], "less than a window; and who has begun is not overtaken"
    book.give_back("a", 20)
    assert book.admit(3) == [Admitted("a", 50)]
    book.give_back("a", 100)
    assert book.admit(4) == [Admitted("a", 100)]
    book.give_back("a", 100)
    assert book.admit(5) == [Admitted("b", 10)]


def test_who_gives_up_leaves_the_line_and_keeps_what_is_still_written() -> None:
    book = budget()
    book.ask("a", 250, priority=0, now=0, window_bytes=40)
    book.ask("b", 50, priority=0, now=0)
    book.admit(0)
    book.withdraw("a")
    assert book.admit(1) == []
    book.give_back("a", 100)
    assert book.admit(2) == [Admitted("b", 50)]
    book.withdraw("never")


def test_no_more_comes_back_than_was_taken() -> None:
    book = budget()
    book.ask("a", 10, priority=0, now=0)
    book.admit(0)
    with pytest.raises(ValueError, match="gives back 11 of 10"):
        book.give_back("a", 11)


def test_the_longest_prompt_is_aligned_down_to_whole_chunks() -> None:
    assert tokens_held(1000, chunk_bytes=300, chunk_tokens=256) == 3 * 256
    assert tokens_held(299, chunk_bytes=300, chunk_tokens=256) == 0


@given(
    sizes=strategies.lists(strategies.integers(1, 100), min_size=1, max_size=20),
    priorities=strategies.lists(strategies.integers(0, 1000), min_size=20, max_size=20),
)
@settings(max_examples=100, deadline=None)
def test_everybody_gets_a_turn(sizes: list[int], priorities: list[int]) -> None:
    """Whoever is admitted gives all of it back after a second; more important ones keep coming."""
    book, now, waiting = budget(ageing_s=1), 0.0, {f"r{at}" for at in range(len(sizes))}
    for at, size in enumerate(sizes):
        book.ask(f"r{at}", size, priority=priorities[at] % 10, now=0)
    while waiting:
        now += 1
        assert now < 12 + 2 * len(sizes), f"{waiting} starve"
        book.ask(f"rival {now}", 100, priority=10, now=now)
        admitted = book.admit(now)
        assert admitted
        for one in admitted:
            waiting.discard(one.name)
            book.give_back(one.name, one.bytes)


class Budgeting(RuleBasedStateMachine):
    """Against a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.book = budget()
        self.has: dict[str, int] = {}
        self.now = 0.0
        self.asked = 0

    @rule(size=strategies.integers(1, 150), window=strategies.sampled_from([0, 0, 20, 120]))
    def ask(self, size: int, window: int) -> None:
        self.asked += 1
        name = f"r{self.asked}"
        try:
            self.book.ask(name, size, priority=size % 3, now=self.now, window_bytes=window)
        except OverBudget:
            assert size > 100
            assert not 0 < window <= 100

    @rule()
    def admit(self) -> None:
        self.now += 1
        for one in self.book.admit(self.now):
            self.has[one.name] = self.has.get(one.name, 0) + one.bytes

    @rule(at=strategies.integers(0, 100), part=strategies.integers(1, 100))
    def give_back(self, at: int, part: int) -> None:
        if self.has:
            name = sorted(self.has)[at % len(self.has)]
            count = min(part, self.has[name])
            self.book.give_back(name, count)
            self.has[name] -= count
            if not self.has[name]:
                del self.has[name]

    @rule(at=strategies.integers(0, 100))
    def withdraw(self, at: int) -> None:
        self.book.withdraw(f"r{at}")

    @invariant()
    def is_sound(self) -> None:
        self.book.validate()
        assert self.book.taken_bytes == sum(self.has.values())


TestBudgeting = Budgeting.TestCase
TestBudgeting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
