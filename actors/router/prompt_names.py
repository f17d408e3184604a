"""Names of the parts of a prompt, as an HTTP request has it: text or tokens, before any chat template.

The engine makes its own chunks of what the template gives. Prompts that begin alike as text begin alike there, which is
all that is needed to send them to the same node.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAME_BYTES = 16
CHARS_A_TOKEN = 4  # about; of prompts that are sent as tokens


@dataclass(frozen=True, slots=True)
class PromptNames:
    """`names` of its whole parts, each for that part and all before it; `parts` counts what is left over, too."""

    names: tuple[bytes, ...]
    parts: int  # at least 1

    @property
    def family(self) -> bytes:
        return self.names[0] if self.names else b""


def name_prompt(body: Mapping[str, object], part_chars: int) -> PromptNames:
    """Of a completion or chat request. What is no prompt at all has no names: the engine refuses it."""
    text = _text(body)
    root = json.dumps([body.get("model"), body.get("cache_salt")])
    state = hashlib.blake2b(root.encode(), digest_size=NAME_BYTES).digest()
    names = []
    for start in range(0, len(text) - part_chars + 1, part_chars):
        part = text[start : start + part_chars].encode(errors="surrogatepass")
        state = hashlib.blake2b(state + part, digest_size=NAME_BYTES).digest()
        names.append(state)
    return PromptNames(tuple(names), max(1, -(-len(text) // part_chars)))


def _text(body: Mapping[str, object]) -> str:
    messages = body.get("messages")
    if isinstance(messages, list):  # one after the other: a longer conversation begins as it did
        tools = json.dumps(body.get("tools"), sort_keys=True)
        return "\n".join([tools, *(json.dumps(one, sort_keys=True) for one in messages)])
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]  # of several prompts, the first decides
    if isinstance(prompt, str):
        return prompt
    return _token_text(prompt) if isinstance(prompt, list) else ""


def _token_text(tokens: Sequence[object]) -> str:
    """Of the length that the text would have, about, so that it counts as much."""
    return "".join(f"{one:0{CHARS_A_TOKEN}x}" for one in tokens if isinstance(one, int))
