"""What came damaged from a peer, until its owner is told: with the next read of it.

came -> refused by its digest -> doubted -> told with a read -> the owner looks at its own copy, and drops that
                                                                if it is damaged: see `actors/peer_proofs.py`
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

DOUBT = struct.Struct("<32sH")
"""Of ReadAsk.doubted: key of the chunk, slot."""
DOUBTS_MAX = 64  # told with one read
LATELY_MAX = 4096  # objects of which it is remembered who gave them, but for one read alone
KEPT_MAX = 256  # doubts that are not told yet, of all peers


@dataclass(frozen=True, slots=True)
class Came:
    """What one read brought. `names`: of its objects, in the order of `doubts`."""

    node_id: str
    namespace: bytes
    names: Sequence[bytes]
    doubts: Sequence[tuple[bytes, int]]  # chunk and slot


class Doubts:
    """Of all peers of one store. What is forgotten is told when it has come damaged once more."""

    def __init__(self) -> None:
        self._lately: deque[Came] = deque()
        self._objects = 0  # in _lately
        self._kept: dict[tuple[str, bytes, bytes], None] = {}  # peer, namespace, record: in order

    def came(self, came: Came) -> None:
        self._lately.append(came)
        self._objects += len(came.names)
        while self._objects > LATELY_MAX and len(self._lately) > 1:
            self._objects -= len(self._lately.popleft().names)

    def damaged(self, names: Collection[bytes]) -> None:
        """Doubt whoever gave these last."""
        left = set(names)
        for came in reversed(self._lately):
            for name, doubt in zip(came.names, came.doubts, strict=True):
                if name in left:
                    left.discard(name)
                    self._kept[came.node_id, came.namespace, DOUBT.pack(*doubt)] = None
            if not left:
                break
        while len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]

    def take(self, node_id: str, namespace: bytes) -> bytes:
        """What this peer is to be told with a read of this namespace: packed DOUBTs, each once."""
        if not self._kept:
            return b""
        own = [one for one in self._kept if one[:2] == (node_id, namespace)][:DOUBTS_MAX]
        for one in own:
            del self._kept[one]
        return b"".join([record for _, _, record in own])
