"""How two nodes agree on a kind of data channel: the first one in the listener's order that both have, and that works.

    listener    offers (kind, how it is dialled), the one it likes best first; expects one secret on all of them
    dialer      tries those that it has, too, one after the other, each with its share of the time; says why one fell

A secret works once. If a dial is given up in the moment in which the listener takes it, the other kinds find nobody
who waits for it any more, and the link is made anew by whoever keeps links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.runtime.channel import ChannelKind, ChannelLost, Connection, Endpoint
from penstock.runtime.log import Log


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A kind that the listener has, and that did not become the connection."""

    kind: str  # as it was offered; it may be one that this node does not know
    reason: str


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The connection, and what stood before it in the listener's order."""

    connection: Connection
    passed_over: tuple[PassedOver, ...]


class NothingInCommon(ChannelLost):
    """Theirs, or yours: no kind of data channel works between these nodes. Says what became of each."""

    def __init__(self, passed_over: tuple[PassedOver, ...]) -> None:
        said = "; ".join(f"{one.kind}: {one.reason}" for one in passed_over)
        super().__init__(f"no data channel: {said or 'the peer offers none'}")
        self.passed_over = passed_over


async def connect(
    ours: Sequence[Endpoint],
    theirs: Sequence[tuple[str, bytes]],
    secret: bytes,
    *,
    within: float,
    log: Log,
    peer: str = "",
) -> Negotiated:
    """Dial the first of `theirs`, (kind, offer) each in the listener's order, that works.

    All of it ends `within` seconds; what one kind leaves of its share the later ones have. Writes a line for each kind
    that both have and that fell. Raises NothingInCommon.
    """
    endpoints = {one.kind: one for one in ours}
    passed: list[PassedOver] = []
    tries: list[tuple[Endpoint, bytes]] = []
    for name, offer in theirs:
        endpoint = endpoints.pop(kind, None) if (kind := _kind(name)) else None
        if endpoint is None:
            passed.append(PassedOver(name, "this node does not have it"))
        elif not offer:
            passed.append(PassedOver(name, "the peer can only dial by it"))
        else:
            tries.append((endpoint, offer))
    clock = asyncio.get_running_loop().time
    ends = clock() + within
    for position, (endpoint, offer) in enumerate(tries):
        share = max(0.0, ends - clock()) / (len(tries) - position)
        try:
            connection = await endpoint.dial(offer, secret, within=share)
        except ChannelLost as lost:
            fell = PassedOver(endpoint.kind.value, str(lost))
            passed.append(fell)
            log.warning("channel_passed_over", kind=fell.kind, peer=peer, reason=fell.reason)
        else:
            return Negotiated(connection, tuple(passed))
    raise NothingInCommon(tuple(passed))


def _kind(name: str) -> ChannelKind | None:
    """None: one of a newer version than ours."""
    return next((one for one in ChannelKind if one.value == name), None)
