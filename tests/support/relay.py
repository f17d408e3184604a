"""A way to a TCP server that can be cut and mended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio import CancelScope
from anyio.abc import SocketStream

BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class Relay:
    """Belongs to the loop."""

    def __init__(self, port: int) -> None:
        self._port = port  # of the server, on loopback
        self._scopes: set[CancelScope] = set()  # of what passes now
        self._is_cut = False
        self.address = ""

    def cut(self) -> None:
        self._is_cut = True
        for scope in self._scopes:
            scope.cancel()

    def mend(self) -> None:
        self._is_cut = False

    async def meet(self, near: SocketStream) -> None:
        with CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if not self._is_cut:
                    await self._pass_on(near)
            finally:
                self._scopes.discard(scope)
                with CancelScope(shield=True):
                    await anyio.aclose_forcefully(near)

    async def _pass_on(self, near: SocketStream) -> None:
        with suppress(*BROKEN):
            async with await anyio.connect_tcp("127.0.0.1", self._port) as far:
                async with anyio.create_task_group() as ways:
                    ways.start_soon(self._copy, near, far, ways.cancel_scope)
                    ways.start_soon(self._copy, far, near, ways.cancel_scope)

    async def _copy(self, source: SocketStream, target: SocketStream, both: CancelScope) -> None:
        with suppress(*BROKEN):
            while True:
                await target.send(await source.receive())
        both.cancel()


@asynccontextmanager
async def relay(port: int) -> AsyncIterator[Relay]:
    """To `port` of loopback, by a port of its own."""
    made = Relay(port)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        made.address = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.start_soon(listener.serve, made.meet)
        yield made
        tasks.cancel_scope.cancel()
