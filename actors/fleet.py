"""All nodes of a cluster as one of them sees them, for whoever operates it: each is asked over its link, all at once.

A node that is away, slow or of another release costs its own line of the answer and no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from penstock.actors.api import directory, peers
from penstock.actors.api.errors import InvalidField
from penstock.actors.fleet_calls import DESCRIBE, EVICT, FIND, PIN, SET_QUOTA, ask_peer
from penstock.actors.fleet_desk import FleetDesk, check_chunks
from penstock.protos import control_pb2, fleet_pb2
from penstock.runtime.deadline import time_left
from penstock.runtime.errors import PenstockError
from penstock.runtime.ref import Ref, gather_asks

Reply = TypeVar("Reply", bound=Message)

NAMED_MAX = 1024  # nodes of one request
PEERS_SHARE = 0.8  # of the time there is, for a peer to answer: who waits has to hear of all others


@dataclass(frozen=True, slots=True)
class Told(Generic[Reply]):
    """What one node answered, or why it did not."""

    node_id: str
    reply: Reply | None
    problem: str = ""


class Fleet:
    """Asks; keeps nothing."""

    def __init__(
        self,
        node_id: str,
        reach: peers.Reach,
        desk: FleetDesk,
        *,
        chunks_max: int,
        ask_s: float,
    ) -> None:
        self._node_id = node_id
        self._peers = reach.peers
        self._directory: Ref[directory.Directory] = reach.directory
        self._desk = desk
        self._chunks_max = chunks_max
        self._ask_s = ask_s

    async def nodes(self, _: control_pb2.NodesRequest) -> control_pb2.NodesReply:
        """Raises PenstockError where this node cannot say who the others are."""
        request = fleet_pb2.DescribeRequest()
        told = await self._ask_all(
            DESCRIBE, request, fleet_pb2.NodeDescription, lambda: self._desk.describe(request)
        )
        return control_pb2.NodesReply(
            nodes=[
                control_pb2.NodeReport(
                    node_id=one.node_id, problem=one.problem, description=one.reply
                )
                for one in told
            ]
        )

    async def where(self, request: control_pb2.WhereRequest) -> control_pb2.WhereReply:
        """Raises InvalidField, TooLarge."""
        prompt = request.prompt
        check_chunks(prompt, chunks_max=self._chunks_max)
        ask = directory.Promised(prompt.chunk_keys)
        promises = await self._directory.ask(ask, within=self._ask_s) if prompt.chunk_keys else ()
        promised = {one.node_id: one.chunks for one in promises}
        told = await self._ask_all(
            FIND, prompt, fleet_pb2.ChunksHeld, lambda: self._desk.find(prompt)
        )
        return control_pb2.WhereReply(
            nodes=[
                control_pb2.NodeHolding(
                    node_id=one.node_id,
                    problem=one.problem,
                    held=one.reply,
                    promised_chunks=promised.get(one.node_id, 0),
                )
                for one in told
            ]
        )

    async def evict(self, request: control_pb2.EvictRequest) -> control_pb2.EvictReply:
        """Raises InvalidField, TooLarge."""
        prompt = request.prompt
        check_chunks(prompt, chunks_max=self._chunks_max)
        named = _named(request.node_ids)
        told = await self._ask_all(
            EVICT, prompt, fleet_pb2.ChunksEvicted, lambda: self._desk.evict(prompt), among=named
        )
        return control_pb2.EvictReply(
            nodes=[
                control_pb2.NodeEvicted(node_id=one.node_id, problem=one.problem, evicted=one.reply)
                for one in told
            ]
        )

    async def set_quota(self, request: control_pb2.SetQuotaRequest) -> control_pb2.SetQuotaReply:
        """Raises InvalidField. What a node refuses is told of it alone: it may be smaller than the others."""
        quota, named = request.quota, _named(request.node_ids)
        told = await self._ask_all(
            SET_QUOTA, quota, fleet_pb2.TenantHeld, lambda: self._desk.set_quota(quota), among=named
        )
        return control_pb2.SetQuotaReply(
            nodes=[
                control_pb2.NodeQuota(node_id=one.node_id, problem=one.problem, held=one.reply)
                for one in told
            ]
        )

    async def pin(self, request: control_pb2.PinRequest) -> control_pb2.PinReply:
        """Raises InvalidField, TooLarge, TooManyPins, and of a peer PeerAway, PeerBusy, PeerRefused."""
        prompt = request.prompt
        check_chunks(prompt.prompt, chunks_max=self._chunks_max)
        if request.node_id == self._node_id:
            return control_pb2.PinReply(pinned=await self._desk.pin(prompt))
        within = PEERS_SHARE * time_left(at_most=self._ask_s)
        link = await self._peers.ask(peers.FindLink(request.node_id), within=within)
        pinned = await ask_peer(link, PIN, prompt, fleet_pb2.ChunksPinned, within=within)
        return control_pb2.PinReply(pinned=pinned)

    async def _ask_all(
        self,
        method: str,
        request: Message,
        kind: type[Reply],
        here: Callable[[], Awaitable[Reply]],
        *,
        among: Collection[str] = (),
    ) -> list[Told[Reply]]:
        """This node first, then the others by their ids. `among`: only these; empty: all. Raises InvalidField."""
        cluster = await self._peers.ask(peers.Measure(), within=self._ask_s)
        wanted = set(among) or {self._node_id, *[one.node_id for one in cluster.peers]}
        unknown = wanted - {self._node_id} - {one.node_id for one in cluster.peers}
        if unknown:
            raise InvalidField("node_ids", f"{min(unknown)[:63]!r} is no member of the cluster")
        within = PEERS_SHARE * time_left(at_most=self._ask_s)

        async def ask(usage: peers.PeerUsage) -> Reply:
            link = await self._peers.ask(peers.FindLink(usage.node_id), within=within)
            return await ask_peer(link, method, request, kind, within=within)

        others = [one for one in cluster.peers if one.node_id in wanted]
        ids = [one.node_id for one in others]
        asks: list[Awaitable[Reply]] = [ask(one) for one in others]
        if self._node_id in wanted:
            ids.insert(0, self._node_id)
            asks.insert(0, here())
        answers = await gather_asks(asks)
        return [_told(node_id, said) for node_id, said in zip(ids, answers, strict=True)]


def _named(node_ids: Collection[str]) -> frozenset[str]:
    """Raises InvalidField."""
    if len(node_ids) > NAMED_MAX:
        raise InvalidField("node_ids", f"at most {NAMED_MAX}")
    return frozenset(node_ids)


def _told(node_id: str, said: Reply | PenstockError) -> Told[Reply]:
    if isinstance(said, PenstockError):
        return Told(node_id, None, str(said))
    return Told(node_id, said)
