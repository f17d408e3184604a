"""What peers have told this node, and what that promises. Belongs to the directory; every method is a step."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, field

from penstock import _native
from penstock.actors.api.directory import Heard, PeerMeasure, PeerUpdate, Promise
from penstock.actors.core.summary import Changes, Part, PeerSummary, Step, Update
from penstock.actors.directory_codec import MalformedUpdate, decode
from penstock.runtime.log import Log


@dataclass(slots=True)
class _Peer:
    number: int  # in the native directory
    epoch: bytes
    summary: PeerSummary = field(default_factory=PeerSummary)


class PeerSummaries:
    """At most `peers_max` of them, in `bytes_max` together; who comes when there is no room is not kept."""

    def __init__(self, *, bytes_max: int, peers_max: int) -> None:
        seed = int.from_bytes(os.urandom(8), "little")
        self._directory = _native.Directory(bytes_max=bytes_max, seed=seed)
        self._peers_max = peers_max
        self._peers: dict[str, _Peer] = {}  # by node id
        self._ids: dict[int, str] = {}  # by number
        self._free: list[int] = []  # a heap of numbers below those that were ever given
        self._dropped: dict[str, None] = {}  # there was no room for, at most peers_max
        self.resyncs = 0
        self.refused = 0
        self._log = Log("directory")

    def promised(self, keys: bytes, first_chunk: int) -> tuple[Promise, ...]:
        found = self._directory.promises(keys, first_chunk)
        return tuple([Promise(self._ids[peer], chunks) for peer, chunks in found])

    def hear(self, msg: PeerUpdate) -> Heard:
        peer = self._peer(msg.node_id, msg.epoch)
        if peer is None:
            return self._refuse(msg.node_id, f"{self._peers_max} peers are known, as many as may")
        try:
            update = decode(msg.update)
            heard = self._follow(peer, update)
        except (MalformedUpdate, _native.FilterMalformed) as wrong:
            self._log.warning_once("malformed", msg.node_id, peer=msg.node_id, problem=str(wrong))
            heard = Heard.RESYNC
        if heard is Heard.RESYNC:
            self.resyncs += 1
            peer.summary.reset()
            self._directory.forget(peer.number)
        elif heard is Heard.NO_ROOM:
            return self._refuse(msg.node_id, "directory.bytes_max has no room for what it has")
        elif peer.summary.is_following:
            self._dropped.pop(msg.node_id, None)
        return heard

    def gone(self, node_id: str) -> None:
        self._dropped.pop(node_id, None)
        self._forget(node_id)

    def _peer(self, node_id: str, epoch: bytes) -> _Peer | None:
        peer = self._peers.get(node_id)
        if peer is not None and peer.epoch != epoch:
            self._forget(node_id)
            peer = None
        if peer is None and len(self._peers) < self._peers_max:
            number = heapq.heappop(self._free) if self._free else len(self._ids)
            peer = self._peers[node_id] = _Peer(number, epoch)
            self._ids[number] = node_id
        return peer

    def _forget(self, node_id: str) -> None:
        peer = self._peers.pop(node_id, None)
        if peer is not None:
            self._directory.forget(peer.number)
            del self._ids[peer.number]
            heapq.heappush(self._free, peer.number)

    def _follow(self, peer: _Peer, update: Update) -> Heard:
        """Raises FilterMalformed."""
        match peer.summary.hear(update), update:
            case Step.IGNORE, _:
                return Heard.KEPT
            case Step.BEGIN, Part():
                self._directory.begin(peer.number)
                return self._part(peer, update)
            case Step.PART, Part():
                return self._part(peer, update)
            case Step.APPLY, Changes():
                fits = self._directory.change(peer.number, update.gone, update.added)
                return Heard.KEPT if fits else Heard.RESYNC
            case _:
                return Heard.RESYNC

    def _part(self, peer: _Peer, part: Part) -> Heard:
        taken = self._directory.take_part(peer.number, part.filter)
        if taken is _native.Directory.Taken.NO_ROOM:
            return Heard.NO_ROOM
        is_whole = taken is _native.Directory.Taken.WHOLE
        return Heard.KEPT if is_whole == peer.summary.is_following else Heard.RESYNC

    def _refuse(self, node_id: str, problem: str) -> Heard:
        self.refused += 1
        self._forget(node_id)
        if node_id in self._dropped or len(self._dropped) < self._peers_max:
            self._dropped[node_id] = None
        self._log.warning_once("peer_not_kept", node_id, peer=node_id, problem=problem)
        return Heard.NO_ROOM

    # Numbers.

    @property
    def bytes(self) -> int:
        return self._directory.bytes

    @property
    def following(self) -> int:
        """Peers of which all is known."""
        return sum(peer.summary.is_following for peer in self._peers.values())

    @property
    def keys(self) -> int:
        return sum(self._directory.keys_of(number) for number in self._ids)

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(sorted(self._dropped))

    def measure(self) -> tuple[PeerMeasure, ...]:
        return tuple(
            PeerMeasure(
                node_id,
                self._directory.keys_of(peer.number),
                self._directory.bytes_of(peer.number),
                peer.summary.is_following,
            )
            for node_id, peer in sorted(self._peers.items())
        )

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        self._directory.validate()
        assert len(self._peers) == len(self._ids) <= self._peers_max
        for node_id, peer in self._peers.items():
            peer.summary.validate()
            assert self._ids[peer.number] == node_id
        assert {*self._ids}.isdisjoint(self._free)
        assert len(self._dropped) <= self._peers_max
