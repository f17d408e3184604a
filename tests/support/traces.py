"""Traces that tests read, and a count of their hits that shares nothing with the product."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MADE = ROOT / "tests" / "data" / "conversations.jsonl"
MADE_AGENTIC = ROOT / "tests" / "data" / "agentic"

# Published traces are large and not ours: used when they lie beside the repository.
PUBLISHED = ROOT.parent / "shared" / "traces"
CONVERSATION = PUBLISHED / "mooncake_conversation_trace.jsonl"
AGENTIC = PUBLISHED / "agentic"
HOW_TO_GET = (
    "put mooncake_conversation_trace.jsonl (github.com/kvcache-ai/Mooncake) into"
    f" {PUBLISHED}, or a folder of agentic traces into {AGENTIC}"
)


def count_hits(
    requests: Iterable[tuple[str, Iterable[int]]], capacity: int | None
) -> tuple[int, int]:
    """(blocks, hits) of prompts given as (scope, block ids), in a least-recently-used cache.

    A block is a hit while the prefix before it is unbroken. A prompt's prefix counts as newer than
    its suffix. `capacity` is in blocks; None: nothing is ever evicted.
    """
    cache: OrderedDict[tuple[str, int], None] = OrderedDict()
    blocks = hits = 0
    for scope, ids in requests:
        prompt = [(scope, one) for one in ids]
        blocks += len(prompt)
        for block in prompt:
            if block not in cache:
                break
            hits += 1
        for block in reversed(prompt):
            cache[block] = None
            cache.move_to_end(block)
        while capacity is not None and len(cache) > capacity:
            cache.popitem(last=False)
    return blocks, hits
