"""Which node should compute a prompt: the one that is expected to have done it first.

What a node must still compute before this prompt's first token is what waits there, plus what of the prompt it does not
hold. That alone decides: a node that holds the prompt and is busy loses to an idle one once its queue is longer than
what it would save. So no weight has to be tuned between locality and load.

What a node holds is guessed from what was sent to it, as a router sees no caches: see `SentPrefixes`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node, for one prompt. Tokens, or any other unit of work, as long as it is the same in all of them."""

    node: str
    queued: int  # of prompts that were sent there and have not got their first token
    missing: int  # of this prompt

    @property
    def cost(self) -> int:
        return self.queued + self.missing


def choose(candidates: Sequence[Candidate], family: bytes) -> Candidate:
    """The cheapest of at least one. Of several, always the same one for a `family` of prompts, another one for another
    (rendezvous hashing: Thaler, Ravishankar, "Using name-based mappings to increase hit rates", 1998)."""
    return min(candidates, key=lambda one: (one.cost, _draw(family, one.node)))


def _draw(family: bytes, node: str) -> bytes:
    return hashlib.blake2b(family + node.encode(), digest_size=8).digest()


class SentPrefixes:
    """What was sent to one node lately, as names of its prompts' parts: the newest `names_max` of them.

    A name stands for a part and all before it, so that one alone says how long a prefix is. Costs about 200 bytes a
    name.
    """

    def __init__(self, names_max: int) -> None:
        self._names: OrderedDict[bytes, None] = OrderedDict()
        self._names_max = names_max

    def __len__(self) -> int:
        return len(self._names)

    def held(self, names: Sequence[bytes]) -> int:
        """How many of a prompt's parts, from its start, were sent there and are remembered."""
        for number, name in enumerate(names):
            if name not in self._names:
                return number
        return len(names)

    def sent(self, names: Sequence[bytes]) -> None:
        """This prompt was sent there. Its end is forgotten before its beginning."""
        for name in reversed(names):
            self._names[name] = None
            self._names.move_to_end(name)
        while len(self._names) > self._names_max:
            self._names.popitem(last=False)

    def forget(self) -> None:
        """The node has begun another life, and holds nothing."""
        self._names.clear()
