"""Which peers are worth asking, and how long each is waited for, by what came of it lately.

A peer that fails too often is left alone for a while and then tried once, as a store is. One that sends nothing for
several times as long as it usually takes is slow now: another one may have the same.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from penstock.actors.core.breaker import Attempt, Breaker, BreakerLimits, BreakerState, Tried

REMEMBERED = 64  # waits of each peer
TELLING = 16  # so many say what is usual
USUAL_TIMES = 3.0  # of the 95th percentile of its waits


@dataclass(slots=True)
class _Peer:
    breaker: Breaker
    waits_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class PeerTrust:
    """Of one store. The clock is passed in, in seconds."""

    def __init__(
        self, limits: BreakerLimits, *, patience_s_min: float, patience_s_max: float, peers_max: int
    ) -> None:
        """`peers_max`: remembered; beyond, those go first of which nothing was heard for longest."""
        self._limits = limits
        self._patience_s_min = min(patience_s_min, patience_s_max)
        self._patience_s_max = patience_s_max
        self._peers_max = peers_max
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def is_trusted(self, node_id: str, now: float) -> bool:
        """Whether it would be asked now."""
        peer = self._peers.get(node_id)
        if peer is None or peer.breaker.state is BreakerState.CLOSED:
            return True
        return peer.breaker.state is BreakerState.OPEN and now >= peer.breaker.reopens_s()

    def admit(self, node_id: str, now: float) -> Attempt | None:
        """Leave to ask it; None: it is left alone. To be handed back once."""
        return self._peer(node_id).breaker.admit(now, Tried.BYTES)

    def answered(self, node_id: str, attempt: Attempt, now: float) -> None:
        self._peer(node_id).breaker.answered(attempt, now)

    def failed(self, node_id: str, attempt: Attempt, now: float, reason: str) -> None:
        self._peer(node_id).breaker.failed(attempt, now, reason)

    def unheard(self, node_id: str, attempt: Attempt, now: float) -> None:
        """Whoever asked waits no more, for reasons of their own."""
        self._peer(node_id).breaker.unheard(attempt, now)

    def waited(self, node_id: str, seconds: float) -> None:
        """So long until the next piece of what it sends came."""
        self._peer(node_id).waits_s.append(seconds)

    def patience_s(self, node_id: str) -> float:
        """How long it may send nothing before it is slow."""
        peer = self._peers.get(node_id)
        if peer is None or len(peer.waits_s) < TELLING:
            return self._patience_s_max
        usual_s = sorted(peer.waits_s)[len(peer.waits_s) * 19 // 20]
        return min(self._patience_s_max, max(self._patience_s_min, USUAL_TIMES * usual_s))

    def _peer(self, node_id: str) -> _Peer:
        peer = self._peers.get(node_id)
        if peer is None:
            peer = self._peers[node_id] = _Peer(Breaker(self._limits))
            if len(self._peers) > self._peers_max:
                self._peers.popitem(last=False)
        self._peers.move_to_end(node_id)
        return peer
