"""Calls of `fleet.proto` on either end: one request and one answer, over a link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

import anyio
from google.protobuf.message import DecodeError, Message

from penstock.actors.api.errors import Denied
from penstock.actors.api.peers import ByteStream, PeerLink, PeerRefused, ServedLink, StreamHandler
from penstock.actors.fleet_desk import FleetDesk
from penstock.actors.peer_codec import NotOurs
from penstock.protos import fleet_pb2
from penstock.runtime.deadline import deadline_within
from penstock.runtime.errors import DeadlineExceeded

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)

SERVICE = "/penstock.v1.Fleet"
DESCRIBE = f"{SERVICE}/Describe"
FIND = f"{SERVICE}/Find"
EVICT = f"{SERVICE}/Evict"
PIN = f"{SERVICE}/Pin"
SET_QUOTA = f"{SERVICE}/SetQuota"


def fleet_handlers(
    desk: FleetDesk, *, within_s: float, operators: Collection[str]
) -> Mapping[str, StreamHandler]:
    """What peers may ask of this node. `within_s`: for one call, its request included.

    All may look. What changes something is for `operators`, by node id: it takes their word for it that whoever asked
    them has the permission `admin`.
    """
    chunks = fleet_pb2.ChunksRequest
    changes = {
        EVICT: _handler(chunks, desk.evict, within_s),
        PIN: _handler(fleet_pb2.PinChunksRequest, desk.pin, within_s),
        SET_QUOTA: _handler(fleet_pb2.TenantQuota, desk.set_quota, within_s),
    }
    return {
        DESCRIBE: _handler(fleet_pb2.DescribeRequest, desk.describe, within_s),
        FIND: _handler(chunks, desk.find, within_s),
        **{method: _for_operators(serve, operators) for method, serve in changes.items()},
    }


def _for_operators(serve: StreamHandler, operators: Collection[str]) -> StreamHandler:
    async def check(link: ServedLink, stream: ByteStream) -> None:
        if link.node_id not in operators:
            raise Denied(
                f"{link.node_id} is none of this node's cluster.operators: ask this node itself, or name it there"
            )
        await serve(link, stream)

    return check


def _handler(
    kind: type[Request], method: Callable[[Request], Awaitable[Message]], within_s: float
) -> StreamHandler:
    async def serve(link: ServedLink, stream: ByteStream) -> None:
        with deadline_within(within_s), anyio.move_on_after(within_s):
            raw = await stream.read()
            if raw is None:
                raise NotOurs(f"{link.node_id} asked for nothing")
            await stream.write((await method(_parsed(kind, raw))).SerializeToString())
            return
        raise DeadlineExceeded(f"a call by {link.node_id} was not over within {within_s:g} s")

    return serve


async def ask_peer(
    link: PeerLink, method: str, request: Message, kind: type[Reply], *, within: float
) -> Reply:
    """Given up, the peer hears of it. Raises PeerAway, PeerBusy, PeerRefused, DeadlineExceeded."""
    stream = link.stream(method)
    raw: bytes | None = None
    try:
        with anyio.move_on_after(within) as time:
            await stream.write(request.SerializeToString())
            await stream.finish()
            raw = await stream.read()
    finally:
        stream.cancel()
    if time.cancelled_caught:
        raise DeadlineExceeded(f"{link.node_id} has not answered within {within:.3g} s")
    if raw is None:
        raise PeerRefused(f"{link.node_id} has not answered")
    try:
        return _parsed(kind, raw)
    except NotOurs as strange:
        raise PeerRefused(f"{link.node_id}: {strange}") from None


def _parsed(kind: type[Reply], raw: bytes) -> Reply:
    """Raises NotOurs."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise NotOurs(f"{len(raw)} bytes that are no {kind.DESCRIPTOR.name}") from None
