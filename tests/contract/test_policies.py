"""One suite over all eviction policies, through the catalog; exact twins of those that are simple.

`prospect` is the default, so it answers for more: it may not lose to the others, on real traces either.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.catalog_twin import (
    BLOCK_BYTES,
    catalog_of,
    keys,
    numbers,
    replayed_hits,
    u32s,
    u64s,
)
from support.traces import CONVERSATION, HOW_TO_GET, MADE, count_hits

from penstock._native import Catalog, Policy, optimum_hits
from penstock.actors.cli.simulate import simulate
from penstock.actors.cli.simulate_trace import load
from penstock.actors.cli.traces import TraceFormat
from penstock.actors.config_words import PolicyName

EVERY = pytest.mark.parametrize("policy", Policy, ids=str)


def prompt_tree(draw: random.Random, prompts: int, *, families: int) -> list[list[int]]:
    """Conversations that grow by a few blocks a turn; a block is numbered anew for every new prefix."""
    numbered: dict[tuple[int, ...], int] = {}
    histories: list[tuple[int, ...]] = [(family,) for family in range(families)]
    made = []
    for _ in range(prompts):
        family = draw.randrange(families)
        kept = histories[family][: draw.randint(1, len(histories[family]))]
        history = (*kept, *(draw.randrange(3) for _ in range(draw.randint(0, 3))))[:8]
        histories[family] = history
        prefixes = [history[: end + 1] for end in range(len(history))]
        made.append([numbered.setdefault(prefix, len(numbered)) for prefix in prefixes])
    return made


@EVERY
@given(seed=st.integers(0, 2**32), capacity=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_a_replay_keeps_to_its_capacity_and_below_the_optimum(
    policy: Policy, seed: int, capacity: int
) -> None:
    prompts = prompt_tree(random.Random(seed), 80, families=6)
    catalog = catalog_of(policy, objects=capacity)
    hits = 0
    for prompt in prompts:
        hits += replayed_hits(catalog, [prompt])
        catalog.validate()
        assert catalog.used_bytes <= capacity * BLOCK_BYTES
        present = catalog.has(keys(prompt))
        assert present == bytes(sorted(present, reverse=True))  # a prefix of it, and no hole
        assert sum(present) == min(len(prompt), capacity)
    flat = [block for prompt in prompts for block in prompt]
    assert hits <= optimum_hits(u32s(flat), capacity=capacity)
    again = catalog_of(policy, objects=capacity)
    assert replayed_hits(again, prompts) == hits  # the same calls give the same victims


@EVERY
def test_a_suffix_goes_before_its_prefix(policy: Policy) -> None:
    """Whatever is chosen, what rests on it has gone before."""
    prompts = prompt_tree(random.Random(1), 40, families=4)
    parents = {child: parent for prompt in prompts for parent, child in pairwise(prompt)}
    catalog = catalog_of(policy, objects=500)
    replayed_hits(catalog, prompts)
    present = {block for prompt in prompts for block in prompt}
    while present:
        chosen = numbers(catalog.victims(bytes_wanted=1, count_max=1).keys, 1000)
        assert len(chosen) == 1
        assert not [
            child for child, parent in parents.items() if parent in chosen and child in present
        ]
        assert catalog.remove(keys(chosen)) == 1
        catalog.validate()
        present -= set(chosen)
    assert catalog.objects == 0


@EVERY
def test_what_is_removed_before_its_suffix_leaves_a_place_that_goes_with_it(policy: Policy) -> None:
    catalog = catalog_of(policy, objects=10)
    replayed_hits(catalog, [[1, 2, 3]])
    assert catalog.remove(keys([1, 2])) == 2
    catalog.validate()
    assert catalog.has(keys([1, 2, 3])) == b"\0\0\1"
    assert replayed_hits(catalog, [[1, 2, 3]]) == 0  # the prefix is broken
    assert replayed_hits(catalog, [[1, 2, 3]]) == 3
    assert catalog.remove(keys([1, 2, 3])) == 3
    assert catalog.objects == 0
    catalog.validate()


@EVERY
def test_room_is_counted_in_bytes(policy: Policy) -> None:
    """Large objects make as much room as several small ones."""
    catalog = catalog_of(policy, objects=8, objects_max=100)
    for number in range(20):
        large = number % 2 == 0
        packed = keys([number])
        size = (3 if large else 1) * BLOCK_BYTES
        catalog.replay(packed, u32s([1]), object_bytes=size)
        catalog.validate()
        assert catalog.used_bytes <= 8 * BLOCK_BYTES
        assert catalog.has(packed) == b"\1"
    with_more = Catalog(objects_max=4, capacity_bytes=BLOCK_BYTES, policy=policy)
    with_more.put(
        keys([1, 2]), sizes=u64s([9_000, 5_000]), places=u64s([0, 0]), tenants=u32s([0, 0])
    )
    victims = with_more.victims(bytes_wanted=14_000, count_max=9)
    assert sorted(numbers(victims.keys, 3)) == [1, 2]
    assert victims.bytes == 14_000


@EVERY
def test_memory_beside_the_records_is_bounded(policy: Policy) -> None:
    """However much has passed: ghosts, sketches and samples have their size from the start."""
    catalog = catalog_of(policy, objects=512)
    replayed_hits(catalog, [[block] for block in range(600)])
    before = catalog.metadata_bytes
    replayed_hits(catalog, [[block] for block in range(600, 40_000)])
    assert catalog.metadata_bytes == before
    records = 512 * 160
    assert before - records <= 512 * 64 + 2 * 1024 * 1024


# Exact twins, over single blocks.


def lru_twin(references: Sequence[int], capacity: int) -> int:
    _, hits = count_hits((("", [one]) for one in references), capacity)
    return hits


def sieve_twin(references: Sequence[int], capacity: int) -> int:
    """A list, oldest first, a hand, and a mark on what was touched."""
    touched: OrderedDict[int, bool] = OrderedDict()
    hand: int | None = None
    hits = 0
    for one in references:
        if one in touched:
            hits += 1
            touched[one] = True
            continue
        if len(touched) == capacity:
            order = list(touched)
            at = order.index(hand) if hand in touched else 0
            while touched[order[at]]:
                touched[order[at]] = False
                at = (at + 1) % len(order)
            hand = order[at + 1] if at + 1 < len(order) else None
            at_end = hand is None
            del touched[order[at]]
            touched[one] = False
            if at_end:
                hand = one  # what is newer than all the hand has passed is what it comes to next
            continue
        touched[one] = False
    return hits


TWINS = {Policy.LRU: lru_twin, Policy.SIEVE: sieve_twin}


@pytest.mark.parametrize("policy", TWINS, ids=str)
@given(references=st.lists(st.integers(0, 12), max_size=150), capacity=st.integers(1, 10))
@settings(deadline=None)
def test_a_policy_hits_what_its_twin_hits(
    policy: Policy, references: list[int], capacity: int
) -> None:
    catalog = catalog_of(policy, objects=capacity)
    seen = replayed_hits(catalog, [[one] for one in references])
    assert seen == TWINS[policy](references, capacity)


@given(seed=st.integers(0, 2**32), capacity=st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_lru_over_prompts_hits_what_a_list_hits(seed: int, capacity: int) -> None:
    prompts = prompt_tree(random.Random(seed), 100, families=6)
    _, hits = count_hits((("", prompt) for prompt in prompts), capacity)
    assert replayed_hits(catalog_of(Policy.LRU, objects=capacity), prompts) == hits


# What each is for.


@pytest.mark.parametrize("policy", [one for one in Policy if one is not Policy.LRU], ids=str)
def test_a_flood_of_what_is_asked_for_once_does_not_wash_away_what_is_used(policy: Policy) -> None:
    """40 blocks are used three times in a row, and again after more than there is room for: least
    recent use finds the second and third use only, all others most of the first ones too."""
    draw = random.Random(5)
    new = iter(range(1000, 10**9))
    prompts = []
    rounds, used = 60, 40
    for _ in range(rounds):
        for block in range(used):
            prompts += [[block]] * 3
            prompts += [[next(new)] for _ in range(draw.randint(2, 4))]
    assert replayed_hits(catalog_of(Policy.LRU, objects=100), prompts) == 2 * rounds * used
    hits = replayed_hits(catalog_of(policy, objects=100), prompts)
    assert hits > 2.5 * rounds * used


def test_prospect_learns_that_a_continued_family_comes_back_and_a_new_one_does_not() -> None:
    """Half of the references belong to 60 conversations, which come back after a while and then
    again; the rest are prompts that nobody continues. With room for half of what passes meanwhile,
    least recent use finds nothing."""
    new = iter(range(10**6, 10**9))
    histories = [[next(new)] for _ in range(60)]
    prompts = []
    for turn in range(40):
        for history in histories:
            if turn % 8 == 0:
                del history[:]
            history += [next(new), next(new)]
            prompts.append([*history, next(new)])  # the last one is renamed by the next turn
            prompts.append([next(new) for _ in range(10)])
    room = 600
    hits = replayed_hits(catalog_of(Policy.PROSPECT, objects=room), prompts)
    assert replayed_hits(catalog_of(Policy.LRU, objects=room), prompts) < 0.2 * hits


@EVERY
def test_no_policy_wins_over_prospect_on_a_made_trace(policy: Policy) -> None:
    (trace,) = load(MADE, TraceFormat.AUTO, None)
    for share in (16, 8, 4, 2):
        capacity = trace.blocks_different // share
        rows = simulate(trace, capacity, [PolicyName[policy.name], PolicyName.PROSPECT])
        other, prospect = (row.hit_rate for row in rows)
        assert prospect >= other - 0.01, f"{other} at {capacity}"


@pytest.mark.skipif(not CONVERSATION.exists(), reason=HOW_TO_GET)
@pytest.mark.parametrize(
    ("capacity", "hit_rate_min"), [(1000, 0.07), (5000, 0.165), (10_000, 0.228)]
)
def test_prospect_beats_all_others_on_real_conversations(
    capacity: int, hit_rate_min: float
) -> None:
    (trace,) = load(CONVERSATION, TraceFormat.AUTO, None)
    rows = {row.policy: row for row in simulate(trace, capacity, list(PolicyName))}
    prospect = rows.pop("prospect").hit_rate
    best = max(row.hit_rate for row in rows.values())
    optimum = next(iter(rows.values())).optimum
    assert prospect >= hit_rate_min
    assert prospect >= best + (optimum - best) / 10
