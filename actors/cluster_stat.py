"""What a node knows of its peers, on the wire."""

from __future__ import annotations

from penstock.actors.api import directory, peers
from penstock.protos import control_pb2


async def cluster_reply(reach: peers.Reach | None, *, ask_s: float) -> control_pb2.ClusterReply:
    """Empty for a node that stands alone. Raises PenstockError."""
    if reach is None:
        return control_pb2.ClusterReply()
    links = await reach.peers.ask(peers.Measure(), within=ask_s)
    told = await reach.directory.ask(directory.Measure(), within=ask_s)
    by_id = {one.node_id: one for one in told.peers}
    return control_pb2.ClusterReply(
        node_id=links.node_id,
        degraded=links.degraded,
        peers=[_peer(one, by_id.get(one.node_id)) for one in links.peers],
        summary_bytes=told.peers_bytes,
        summary_bytes_max=told.bytes_max,
    )


def _peer(usage: peers.PeerUsage, told: directory.PeerMeasure | None) -> control_pb2.ClusterPeer:
    return control_pb2.ClusterPeer(
        node_id=usage.node_id,
        address=usage.address,
        linked=usage.state is peers.PeerState.LINKED,
        links_here=usage.serves,
        epoch=usage.epoch,
        channel="" if usage.channel is None else usage.channel.value,
        bytes_in=usage.bytes_in,
        bytes_out=usage.bytes_out,
        chunks=0 if told is None else told.keys,
        known=told is not None and told.is_following,
        detail=usage.detail,
        linked_ms=int(usage.linked_s * 1000),
        summary_bytes=0 if told is None else told.summary_bytes,
    )
