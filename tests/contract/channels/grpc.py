"""Channels over gRPC: each endpoint behind a server of its own on loopback."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from support.channel_rig import Rig

from penstock.runtime.channel import Accepted, ChannelKind, ChannelLost, Connection, Endpoint
from penstock.runtime.grpc_channel import GrpcEndpoint, data_handler


class Dialable:
    """A GrpcEndpoint whose offer says where its server is: what links know without it."""

    kind = ChannelKind.GRPC

    def __init__(self, endpoint: GrpcEndpoint, port: int) -> None:
        self._endpoint = endpoint
        self._offer = f"127.0.0.1:{port}".encode()
        self._channels: list[grpc.aio.Channel] = []

    def offer(self) -> bytes:
        return self._offer

    def expect(self, secret: bytes, accepted: Accepted) -> None:
        self._endpoint.expect(secret, accepted)

    def forget(self, secret: bytes) -> None:
        self._endpoint.forget(secret)

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> Connection:
        if not re.fullmatch(rb"127\.0\.0\.1:\d+", offer):
            raise ChannelLost("no address of a server")
        channel = grpc.aio.insecure_channel(offer.decode())
        self._channels.append(channel)
        over = self._endpoint.over(channel)
        return await over.dial(self._endpoint.offer(), secret, within=within)

    async def aclose(self) -> None:
        await self._endpoint.aclose()
        while self._channels:
            await self._channels.pop().close()


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    ours = GrpcEndpoint(show_within_s=2)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((data_handler(ours),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    dialable = Dialable(ours, port)
    try:
        yield dialable
    finally:
        await dialable.aclose()
        await server.stop(None)


RIGS = {"grpc": lambda: Rig(ChannelKind.GRPC, endpoint)}
