"""The native channel over loopback: one stream, and several."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from support.channel_rig import Rig

from penstock.runtime.channel import ChannelKind, Endpoint
from penstock.runtime.native_channel import TcpEndpoint
from penstock.runtime.security import TcpAddress
from penstock.runtime.tcp_options import TcpChannelOptions

LOOPBACK = TcpAddress("127.0.0.1", 0)


@asynccontextmanager
async def opened(options: TcpChannelOptions) -> AsyncIterator[Endpoint]:
    endpoint = TcpEndpoint(options)
    try:
        yield endpoint
    finally:
        await endpoint.aclose()


def rig(options: TcpChannelOptions) -> Rig:
    return Rig(ChannelKind.TCP, partial(opened, options))


RIGS: dict[str, Callable[[], Rig]] = {
    "tcp": partial(rig, TcpChannelOptions(listen=LOOPBACK)),
    "tcp-3-streams": partial(rig, TcpChannelOptions(listen=LOOPBACK, streams=3, threads=3)),
}
