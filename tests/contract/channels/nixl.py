"""Channels over NIXL, by UCX without a GPU: TCP on loopback, or shared memory, as it likes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec

with suppress(ImportError):  # it takes longer than a step of a loop may
    import nixl_cu13._api  # noqa: F401
import pytest
from support.channel_rig import Rig

from penstock.runtime.channel import ChannelKind, Endpoint
from penstock.runtime.nixl_agent import INSTALL, NixlOptions
from penstock.runtime.nixl_channel import NixlEndpoint


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    if find_spec("nixl_cu13") is None and find_spec("nixl_cu12") is None:
        pytest.skip(f"the library of nixl is missing: {INSTALL}")
    ours = NixlEndpoint(NixlOptions(close_within=2))
    try:
        yield ours
    finally:
        await ours.aclose()


RIGS = {"nixl": lambda: Rig(ChannelKind.NIXL, endpoint)}
