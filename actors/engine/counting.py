"""How many chunks of a prefix count, given which objects came over whole. Pure.

The hit rule, once more, on the engine's side: an object may have been damaged, or dropped from the index between
lookup and acquire, and then only a shorter prefix holds, if any does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.actors.api.types import HitRule


@dataclass(frozen=True, slots=True)
class GroupRule:
    """What one group needs for a prefix of n chunks."""

    rule: HitRule
    window_chunks: int = 0  # >= 1 for HitRule.WINDOW, else 0

    def first_needed(self, chunks: int) -> int:
        """The first chunk whose object a prefix of `chunks` > 0 chunks needs; all after it are needed too."""
        match self.rule:
            case HitRule.FULL:
                return 0
            case HitRule.WINDOW:
                return max(0, chunks - self.window_chunks)
            case HitRule.STATE:
                return chunks - 1


def counting_chunks(
    rules: Sequence[GroupRule], intact: Sequence[Sequence[bool]], *, first_chunk: int, chunks: int
) -> int:
    """The largest n <= first_chunk + chunks for which every group's rule holds; first_chunk if none is larger.

    `intact[group][i]` says whether the group's object of chunk first_chunk + i is in the engine's blocks. What lies
    before first_chunk was in the engine already.
    """
    assert len(rules) == len(intact)
    end = chunks  # counted from first_chunk from here on
    for rule, present in zip(rules, intact, strict=True):
        if rule.rule is HitRule.FULL:
            end = next((i for i, here in enumerate(present[:end]) if not here), end)
    others = [
        (rule, present)
        for rule, present in zip(rules, intact, strict=True)
        if rule.rule is not HitRule.FULL
    ]
    while end > 0 and not all(
        all(present[max(0, rule.first_needed(first_chunk + end) - first_chunk) : end])
        for rule, present in others
    ):
        end -= 1
    return first_chunk + end


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load brought. `tokens` beyond the `skip_tokens` that the engine had; 0: compute them.

    Blocks may have been written for tokens that do not count; they hold nothing of use.
    """

    tokens: int = 0
    bytes: int = 0  # copied and counted
    damaged_objects: int = 0  # did not digest to what was stored; the node has dropped them


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of each chunk of a store; the counts sum to the chunks asked for, unless the store failed."""

    chunks_written: int = 0
    chunks_resident: int = 0  # were there already
    chunks_in_flight: int = 0  # somebody else writes them now
    chunks_refused: int = 0  # no room, or the tenant's quota
    chunks_failed: int = 0  # the lease was over before the commit, or the blocks were not all given
    bytes: int = 0  # copied and committed
