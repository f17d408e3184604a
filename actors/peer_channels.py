"""The data channels of one node: what it offers in handshakes, and how one connection of a link is made."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from penstock.actors.core.link_words import Offered
from penstock.runtime.channel import Accepted, Connection, Endpoint
from penstock.runtime.grpc_channel import GrpcEndpoint, data_handler
from penstock.runtime.log import Log
from penstock.runtime.negotiation import connect


class PeerChannels:
    """`endpoints` in the order in which this node likes them. They are its own: closed with it."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        self._log = Log("peer_channels")

    @property
    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What the service for peers serves of them."""
        return [data_handler(one) for one in self._endpoints if isinstance(one, GrpcEndpoint)]

    def offered(self) -> tuple[Offered, ...]:
        return tuple(Offered(one.kind.value, one.offer()) for one in self._endpoints)

    def expect(self, secret: bytes, accepted: Accepted) -> None:
        """One connection, by whichever of them."""

        def take(connection: Connection) -> None:
            self.forget(secret)
            accepted(connection)

        for one in self._endpoints:
            one.expect(secret, take)

    def forget(self, secret: bytes) -> None:
        for one in self._endpoints:
            one.forget(secret)

    async def connect(
        self,
        channel: grpc.aio.Channel,
        metadata: Sequence[tuple[str, bytes]],
        theirs: Sequence[Offered],
        secret: bytes,
        *,
        within_s: float,
    ) -> Connection:
        """By the first of theirs that works here, too. `channel`: to them, for the kind that needs one.

        Raises ChannelLost."""
        ours = [
            one.over(channel, metadata) if isinstance(one, GrpcEndpoint) else one
            for one in self._endpoints
        ]
        offers = [(one.kind, one.offer) for one in theirs]
        done = await connect(ours, offers, secret, within=within_s, log=self._log)
        return done.connection

    async def aclose(self) -> None:
        for one in self._endpoints:
            await one.aclose()
