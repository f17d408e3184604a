"""Between the messages of `peer.proto` and our own words. What comes from the wire is taken apart within bounds."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from penstock.actors.api.peers import LinkLimits, ReadAsk, ReadTold
from penstock.actors.api.types import Epoch
from penstock.actors.core.link_words import Hello, Offered, Pace, Welcome
from penstock.protos import peer_pb2

TALK_BYTES_MAX = 64 * 1024  # one message of a link's own stream
REASON_CHARS_MAX = 500


class NotOurs(ValueError):
    """Theirs: no message of this contract, or one that is too large."""


def hello_request(hello: Hello) -> bytes:
    request = peer_pb2.LinkRequest(
        hello=peer_pb2.PeerHello(
            nonce=hello.nonce,
            own_nonce=hello.own_nonce,
            node_id=hello.node_id,
            epoch=hello.epoch,
            listener_id=hello.listener_id,
            protocol_version=hello.protocol_version,
            channels=_channels(hello.channels),
        )
    )
    return request.SerializeToString()


def beat_request(number: int) -> bytes:
    beat = peer_pb2.PeerHeartbeat(number=number)
    return peer_pb2.LinkRequest(heartbeat=beat).SerializeToString()


def beat_reply(number: int) -> bytes:
    beat = peer_pb2.PeerHeartbeat(number=number)
    return peer_pb2.LinkReply(heartbeat=beat).SerializeToString()


def challenge_reply(nonce: bytes) -> bytes:
    challenge = peer_pb2.PeerChallenge(nonce=nonce)
    return peer_pb2.LinkReply(challenge=challenge).SerializeToString()


def refused_reply(reason: str) -> bytes:
    refused = peer_pb2.PeerRefused(reason=reason[:REASON_CHARS_MAX])
    return peer_pb2.LinkReply(refused=refused).SerializeToString()


def welcome_reply(welcome: Welcome) -> bytes:
    reply = peer_pb2.LinkReply(
        welcome=peer_pb2.PeerWelcome(
            own_nonce=welcome.own_nonce,
            node_id=welcome.node_id,
            epoch=welcome.epoch,
            link_id=welcome.link_id,
            secret=welcome.secret,
            channels=_channels(welcome.channels),
            heartbeat_ms=max(1, round(welcome.pace.every_s * 1000)),
            heartbeats_missed_max=welcome.pace.missed_max,
            reads_max=welcome.limits.reads_max,
            read_objects_max=welcome.limits.read_objects_max,
            read_bytes_max=welcome.limits.read_bytes_max,
            message_bytes_max=welcome.limits.message_bytes_max,
        )
    )
    return reply.SerializeToString()


def read_hello_or_beat(raw: bytes) -> Hello | int:
    """From a dialer: its Hello, or the number of a heartbeat. Raises NotOurs."""
    request = peer_pb2.LinkRequest()
    _parse(request, raw)
    match request.WhichOneof("body"):
        case "hello":
            return _hello(request.hello)
        case "heartbeat":
            return request.heartbeat.number
        case _:
            raise NotOurs("an empty message")


def read_reply(raw: bytes) -> peer_pb2.LinkReply:
    """From a listener. Raises NotOurs."""
    reply = peer_pb2.LinkReply()
    _parse(reply, raw)
    if reply.WhichOneof("body") is None:
        raise NotOurs("an empty message")
    return reply


def welcome_of(said: peer_pb2.PeerWelcome) -> Welcome:
    return Welcome(
        said.own_nonce,
        said.node_id,
        Epoch(said.epoch),
        said.link_id,
        said.secret,
        tuple(Offered(one.kind, one.offer) for one in said.channels),
        Pace(said.heartbeat_ms / 1000, said.heartbeats_missed_max),
        LinkLimits(
            said.reads_max, said.read_objects_max, said.read_bytes_max, said.message_bytes_max
        ),
    )


def read_request(ask: ReadAsk) -> bytes:
    request = peer_pb2.ReadRequest(
        namespace_digest=ask.namespace,
        chunk_keys=ask.chunk_keys,
        objects=ask.objects,
        grant=ask.grant,
        doubted=ask.doubted,
    )
    return request.SerializeToString()


def read_ask(raw: bytes) -> ReadAsk:
    """Raises NotOurs."""
    request = peer_pb2.ReadRequest()
    try:
        request.ParseFromString(raw)
    except DecodeError:
        raise NotOurs(f"{len(raw)} bytes that are no ReadRequest") from None
    return ReadAsk(
        request.namespace_digest,
        request.chunk_keys,
        request.objects,
        request.grant,
        0,
        request.doubted,
    )


def read_reply_bytes(told: ReadTold) -> bytes:
    reply = peer_pb2.ReadReply(outcomes=told.outcomes, headers=told.headers)
    return reply.SerializeToString()


def read_told(raw: bytes) -> ReadTold:
    """Raises NotOurs."""
    reply = peer_pb2.ReadReply()
    try:
        reply.ParseFromString(raw)
    except DecodeError:
        raise NotOurs(f"{len(raw)} bytes that are no ReadReply") from None
    return ReadTold(reply.outcomes, tuple(reply.headers))


def watch_reply(update: bytes) -> bytes:
    return peer_pb2.WatchReply(update=update).SerializeToString()


def update_of(raw: bytes) -> bytes:
    """Raises NotOurs."""
    reply = peer_pb2.WatchReply()
    try:
        reply.ParseFromString(raw)
    except DecodeError:
        raise NotOurs(f"{len(raw)} bytes that are no WatchReply") from None
    return reply.update


def _parse(message: peer_pb2.LinkRequest | peer_pb2.LinkReply, raw: bytes) -> None:
    """Raises NotOurs."""
    if len(raw) > TALK_BYTES_MAX:
        raise NotOurs(f"{len(raw)} bytes, {TALK_BYTES_MAX} are the most")
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise NotOurs(f"{len(raw)} bytes that are no message of a link") from None


def _hello(said: peer_pb2.PeerHello) -> Hello:
    return Hello(
        said.nonce,
        said.own_nonce,
        said.node_id,
        Epoch(said.epoch),
        said.listener_id,
        said.protocol_version,
        tuple(Offered(one.kind, one.offer) for one in said.channels),
    )


def _channels(offered: tuple[Offered, ...]) -> list[peer_pb2.PeerChannel]:
    return [peer_pb2.PeerChannel(kind=one.kind, offer=one.offer) for one in offered]
