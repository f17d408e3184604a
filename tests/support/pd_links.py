"""Links between simulated nodes: what an actor of one is given to reach another, and what that one serves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

import anyio

from penstock.actors.api import pd, peers
from penstock.actors.api.types import Epoch
from penstock.actors.pd_services import METHOD, transfer_handler
from penstock.runtime.errors import PenstockError
from penstock.runtime.ref import Ref
from penstock.runtime.sim_net import PipeCut, SimConnection, SimNet, SimPipe


class Far(Protocol):
    """A node that is linked to."""

    name: str
    epoch: Epoch
    receiver: Ref[pd.PdReceiver]


class SimLink:
    """A link that `near` has dialled to `far`: a `PeerLink` there, and a `ServedLink` here."""

    limits = peers.LinkLimits(1, 1, 1, 1)

    def __init__(self, net: SimNet, near: str, far: Far, tasks: anyio.abc.TaskGroup) -> None:
        self.near = near
        self.far = far
        self.epoch = far.epoch
        self.connection, self.far_connection = net.connect()
        self.calls: list[SimPipe] = []
        self._net = net
        self._tasks = tasks
        self._lost = asyncio.Event()
        self._scopes: list[anyio.CancelScope] = []  # of calls that are served

    @property
    def node_id(self) -> str:
        return self.far.name

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return "the link is lost"

    async def read(self, ask: peers.ReadAsk, *, within: float) -> peers.ReadTold:
        raise NotImplementedError

    def stream(self, method: str) -> SimCall:
        assert method == METHOD
        if self.is_lost:
            raise peers.PeerAway("the link is lost")
        near, far = self._net.pipe()
        self.calls.append(near)
        self._tasks.start_soon(self._serve, far, name="served call")
        return SimCall(near)

    async def _serve(self, pipe: SimPipe) -> None:
        handler = transfer_handler(self.far.receiver, within_s=1.0)
        with anyio.CancelScope() as scope, suppress(PenstockError):
            self._scopes.append(scope)
            await handler(SimServed(self), SimCall(pipe))
        pipe.finish()

    def lose_calls(self) -> None:
        for pipe in self.calls:
            pipe.cut()
        self.calls.clear()

    def lose(self) -> None:
        """The link, its calls and its data connection."""
        self._lost.set()
        self.lose_calls()
        self.connection.lose("the link is lost")
        for scope in self._scopes:
            scope.cancel()


class SimServed:
    """As the listener sees it."""

    def __init__(self, link: SimLink) -> None:
        self._link = link
        self.node_id = link.near
        self.epoch = Epoch(link.near.encode() * 16)

    @property
    def is_lost(self) -> bool:
        return self._link.is_lost

    async def wait_lost(self) -> str:
        return await self._link.wait_lost()

    async def connection(self, *, within: float) -> SimConnection:
        return self._link.far_connection


class SimCall:
    """A call over a pipe."""

    def __init__(self, pipe: SimPipe) -> None:
        self._pipe = pipe

    async def read(self) -> bytes | None:
        try:
            return await self._pipe.read()
        except PipeCut as cut:
            raise peers.PeerAway(str(cut)) from None

    async def write(self, data: bytes) -> None:
        try:
            await self._pipe.write(data)
        except PipeCut as cut:
            raise peers.PeerAway(str(cut)) from None

    async def finish(self) -> None:
        self._pipe.finish()

    def cancel(self) -> None:
        self._pipe.cut()
