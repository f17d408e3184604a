"""Where a prompt is sent, and what a router remembers of what it sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.core.route_choice import Candidate, SentPrefixes, choose


def test_a_node_that_holds_the_prompt_is_chosen_among_idle_ones() -> None:
    candidates = [Candidate("a", 0, 4096), Candidate("b", 0, 256), Candidate("c", 0, 4096)]
    assert choose(candidates, b"family").node == "b"


def test_a_busy_node_loses_once_its_queue_is_longer_than_what_it_would_save() -> None:
    held = 4096 - 256
    idle = Candidate("idle", 0, 4096)
    assert choose([idle, Candidate("busy", held - 1, 256)], b"").node == "busy"
    assert choose([idle, Candidate("busy", held + 1, 256)], b"").node == "idle"


def test_equal_nodes_share_the_families_and_keep_them() -> None:
    """A family stays at its node when others come and go, as long as that one is there."""
    nodes = [Candidate(f"node-{number}", 0, 512) for number in range(8)]
    chosen = {family: choose(nodes, bytes([family])).node for family in range(256)}
    counts = [list(chosen.values()).count(one.node) for one in nodes]
    assert min(counts) >= 16
    assert max(counts) <= 52
    fewer = nodes[:-1]
    for family, node in chosen.items():
        if node != "node-7":
            assert choose(fewer, bytes([family])).node == node


def names(*parts: int) -> list[bytes]:
    return [bytes(parts[: number + 1]) for number in range(len(parts))]


def test_a_prefix_is_held_up_to_the_first_part_that_was_not_sent() -> None:
    sent = SentPrefixes(names_max=100)
    sent.sent(names(1, 2, 3))
    assert sent.held(names(1, 2, 3, 4)) == 3
    assert sent.held(names(1, 9, 3)) == 1
    assert sent.held(names(2, 3)) == 0
    sent.forget()
    assert sent.held(names(1, 2, 3)) == 0


def test_the_end_of_an_old_prompt_is_forgotten_first() -> None:
    sent = SentPrefixes(names_max=4)
    sent.sent(names(1, 2, 3))
    sent.sent(names(7, 8))
    assert sent.held(names(1, 2, 3)) == 2
    assert sent.held(names(7, 8)) == 2


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), max_size=40), st.integers(1, 12)
)
def test_no_more_is_remembered_than_its_bound(prompts: list[list[int]], names_max: int) -> None:
    sent = SentPrefixes(names_max)
    for prompt in prompts:
        sent.sent(names(*prompt))
        assert len(sent) <= names_max
        assert sent.held(names(*prompt)) == min(len(prompt), names_max)
