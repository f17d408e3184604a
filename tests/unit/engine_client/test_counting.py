"""Which prefix counts, against the rule written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.api.types import HitRule
from penstock.actors.engine.counting import GroupRule, counting_chunks

FULL, STATE = GroupRule(HitRule.FULL), GroupRule(HitRule.STATE)


def holds(rule: GroupRule, present: list[bool], first: int, end: int) -> bool:
    """DESIGN's hit rule, one chunk at a time; what lies before `first` the engine had."""
    needed = {
        HitRule.FULL: range(end),
        HitRule.WINDOW: range(max(0, end - rule.window_chunks), end),
        HitRule.STATE: range(end - 1, end),
    }[rule.rule]
    return all(chunk < first or present[chunk - first] for chunk in needed)


@given(st.data())
def test_it_is_the_largest_prefix_for_which_every_rule_holds(data: st.DataObject) -> None:
    """A16."""
    chunks = data.draw(st.integers(0, 8))
    first = data.draw(st.integers(0, 3))
    rules = data.draw(
        st.lists(
            st.sampled_from([FULL, STATE, *(GroupRule(HitRule.WINDOW, w) for w in (1, 2, 5))]),
            min_size=1,
            max_size=3,
        )
    )
    row = st.lists(st.booleans() | st.just(True), min_size=chunks, max_size=chunks)
    intact = [data.draw(row) for _ in rules]
    best = max(
        (
            end
            for end in range(first, first + chunks + 1)
            if end == first
            or all(holds(r, p, first, end) for r, p in zip(rules, intact, strict=True))
        ),
    )
    assert counting_chunks(rules, intact, first_chunk=first, chunks=chunks) == best


@pytest.mark.parametrize(
    ("rule", "end", "first_needed"),
    [
        (FULL, 5, 0),
        (GroupRule(HitRule.WINDOW, 2), 5, 3),
        (GroupRule(HitRule.WINDOW, 9), 5, 0),
        (STATE, 5, 4),
    ],
)
def test_what_a_rule_needs(rule: GroupRule, end: int, first_needed: int) -> None:
    assert rule.first_needed(end) == first_needed
