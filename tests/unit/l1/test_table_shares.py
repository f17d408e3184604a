"""A full L1 is shared by weight: who takes less than its share is spared while others are not."""

from __future__ import annotations

import pytest
from support.borrowing import BorrowingRig
from support.table_rig import PAGE_BYTES, prompt

from penstock._native import Policy

POLICIES = [Policy.LRU, Policy.S3FIFO]


def pages_of(rig: BorrowingRig, tenant: int) -> int:
    return rig.table.bytes_of(tenant) // PAGE_BYTES


def fill(rig: BorrowingRig, tenant: int, name: str, chunks: int) -> None:
    for i in range(chunks):
        rig.put(prompt(f"{name}/{i}", 1), tenant=tenant)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tenant_within_its_share_loses_nothing_to_one_beyond(policy: Policy) -> None:
    """D6, seen to fail without `fair_share`, by LRU and S3-FIFO: the small tenant's old chunks went first."""
    rig = BorrowingRig(policy=policy, fair_share=True)
    fill(rig, 1, "small", 10)
    fill(rig, 2, "large", 54)
    for i in range(200):
        rig.table.evict(PAGE_BYTES, now=0)
        rig.put(prompt(f"more/{i}", 1), tenant=2)
        assert pages_of(rig, 1) == 10
    rig.table.validate()


def test_without_shares_age_decides() -> None:
    rig = BorrowingRig()
    fill(rig, 1, "small", 10)
    fill(rig, 2, "large", 54)
    rig.table.evict(10 * PAGE_BYTES, now=0)
    assert pages_of(rig, 1) == 0


def test_weights_move_the_shares() -> None:
    """Of 60 pages, weights 1 and 5 are 10 and 50: 20 is beyond, 40 is within."""
    rig = BorrowingRig(fair_share=True)
    rig.table.set_weight(2, 5)
    fill(rig, 2, "heavy", 40)
    fill(rig, 1, "light", 20)
    rig.table.evict(8 * PAGE_BYTES, now=0)
    assert (pages_of(rig, 1), pages_of(rig, 2)) == (12, 40)
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match="weight"):
            rig.table.set_weight(1, wrong)


def test_who_is_alone_has_no_share_and_everything_can_go() -> None:
    rig = BorrowingRig(fair_share=True)
    fill(rig, 1, "all", 64)
    assert rig.evict_all() == 64


def test_the_spared_go_when_all_others_are_held() -> None:
    """The rule never makes room impossible: what the other has may not go."""
    rig = BorrowingRig(fair_share=True)
    fill(rig, 1, "small", 10)
    fill(rig, 2, "large", 54)
    rig.borrow([prompt(f"large/{i}", 1)[0] for i in range(54)])
    assert rig.evict_all() == 10
    assert pages_of(rig, 2) == 54
    rig.table.validate()


def test_a_step_is_bounded_and_says_that_there_is_more() -> None:
    rig = BorrowingRig(fair_share=True)
    fill(rig, 1, "small", 10)
    fill(rig, 2, "large", 54)
    first = rig.table.evict(PAGE_BYTES, chunks_max=4, now=0)
    assert (first.chunks, first.is_over) == (0, False)
    rest = [rig.table.evict(PAGE_BYTES, chunks_max=4, now=0) for _ in range(3)]
    assert sum(one.chunks for one in rest) == 2, "ten were spared, then two went: one a call"
    assert pages_of(rig, 1) == 10
    rig.evict_all()
    assert rig.table.evict(PAGE_BYTES, now=0).is_over


def test_victims_are_chosen_by_the_same_rule() -> None:
    rig = BorrowingRig(fair_share=True)
    fill(rig, 1, "small", 10)
    fill(rig, 2, "large", 54)
    _, chosen = rig.victims(bytes_max=20 * PAGE_BYTES)
    assert chosen.count == 20
    large = {prompt(f"large/{i}", 1)[0] for i in range(54)}
    assert {chosen.keys[i : i + 32] for i in range(0, len(chosen.keys), 32)} <= large


def test_a_step_that_offers_nothing_says_whether_that_is_all() -> None:
    """Seen to fail while a step in which all were spared looked like the end of what may go."""
    rig = BorrowingRig(fair_share=True)
    fill(rig, 1, "small", 10)
    fill(rig, 2, "large", 54)
    steps = [rig.victims(chunks_max=4)[1] for _ in range(3)]
    assert [one.count for one in steps[:2]] == [0, 0]
    assert not any(one.is_over for one in steps)
    assert steps[2].count > 0
    rig = BorrowingRig(fair_share=True)
    assert rig.victims(chunks_max=4)[1].is_over


def test_a_part_of_a_page_is_wanted_as_a_page() -> None:
    rig = BorrowingRig()
    fill(rig, 1, "some", 3)
    assert rig.victims(bytes_max=1)[1].count == 1
    assert rig.victims(bytes_max=PAGE_BYTES + 1)[1].count == 2
