"""The simulated network: what holds for all channels holds for it, too, or simulations would show nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from support.channel_rig import Rig

from penstock.runtime.channel import ChannelKind, Endpoint
from penstock.runtime.sim_net import SimNet, Weather
from penstock.runtime.units import MIB

CALM = Weather(delay_s=(0.0, 0.001), write_s=(0.0, 0.001), part_bytes=4 * MIB)


def on_one_net() -> Callable[[], AbstractAsyncContextManager[Endpoint]]:
    net = SimNet(random.Random(7), CALM)

    @asynccontextmanager
    async def endpoint() -> AsyncIterator[Endpoint]:
        ours = net.endpoint()
        try:
            yield ours
        finally:
            await ours.aclose()

    return endpoint


RIGS = {"sim": lambda: Rig(ChannelKind.TCP, on_one_net())}
