"""Makes the traces beside it: `python tests/data/make_traces.py`. Same seed, same bytes.

Conversations that share system prompts and grow turn by turn, several at a time, some of them given
up and resumed later: enough reuse, and enough distance between uses, that a small cache loses hits.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import count
from pathlib import Path

FOLDER = Path(__file__).parent
SEED = 20
BLOCK_TOKENS = 512


@dataclass
class Conversation:
    blocks: list[int]
    turns_left: int
    tail_tokens: int = 0  # of the last block, which is not whole

    def grow(self, tokens: int, ids: count[int]) -> None:
        """Add `tokens`; every block that becomes whole gets a new id."""
        blocks, self.tail_tokens = divmod(self.tail_tokens + tokens, BLOCK_TOKENS)
        self.blocks += [next(ids) for _ in range(blocks)]


def mooncake(draw: random.Random, requests: int) -> list[dict[str, object]]:
    ids = count()
    systems = [[next(ids) for _ in range(draw.randint(1, 6))] for _ in range(5)]
    running: list[Conversation] = []
    lines: list[dict[str, object]] = []
    now_ms = 0
    while len(lines) < requests:
        if len(running) < 40 and (not running or draw.random() < 0.35):
            system = draw.choices(systems, weights=[16, 8, 4, 2, 1])[0]
            running.append(Conversation(list(system), draw.randint(1, 12)))
        conversation = draw.choice(running)
        conversation.grow(draw.randint(100, 6000), ids)
        now_ms += draw.randint(0, 900)
        tokens = len(conversation.blocks) * BLOCK_TOKENS + conversation.tail_tokens
        answer_tokens = draw.randint(10, 700)
        lines.append(
            {
                "timestamp": now_ms,
                "input_length": tokens,
                "output_length": answer_tokens,
                "hash_ids": list(conversation.blocks),
            }
        )
        conversation.grow(answer_tokens, ids)
        conversation.turns_left -= 1
        if not conversation.turns_left:
            running.remove(conversation)
    return lines


def agentic(draw: random.Random, name: str, turns: int) -> dict[str, object]:
    blocks = list(range(1, 40))
    requests: list[dict[str, object]] = []
    for turn in range(turns):
        if draw.random() < 0.15:
            del blocks[draw.randint(20, len(blocks) - 1) :]  # the agent's context was cut
        blocks += range(1000 * (turn + 1), 1000 * (turn + 1) + draw.randint(1, 30))
        requests.append(
            {
                "t": 7.5 * turn,
                "type": "n",
                "in": 64 * len(blocks),
                "out": draw.randint(20, 400),
                "hash_ids": list(blocks),
            }
        )
    inside = {"t": 7.5 * turns, "type": "n", "in": 64 * 30, "out": 9, "hash_ids": blocks[:30]}
    requests.append({"t": 7.5 * turns, "type": "subagent", "requests": [inside]})
    return {"id": name, "block_size": 64, "hash_id_scope": "local", "requests": requests}


def files() -> dict[str, str]:
    """Name below `tests/data` -> content."""
    draw = random.Random(SEED)
    lines = [json.dumps(line) for line in mooncake(draw, 400)]
    made = {"conversations.jsonl": "\n".join(lines) + "\n"}
    for name, turns in (("agent_1", 14), ("agent_2", 9)):
        made[f"agentic/{name}.json"] = json.dumps(agentic(draw, name, turns)) + "\n"
    return made


if __name__ == "__main__":
    for name, content in files().items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
