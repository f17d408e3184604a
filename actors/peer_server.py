"""The actor that serves peers: their links, what they read, and the data channels they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Never, assert_never

import anyio
import grpc

from penstock.actors.peer_channels import PeerChannels
from penstock.actors.peer_served import ServedLinks
from penstock.runtime.actor import Actor
from penstock.runtime.certificates import Certificates
from penstock.runtime.channel import Connection
from penstock.runtime.peer_transport import PeerDoor, PeerListenSpec, serving_peers


class PeerServer(Actor[Never]):
    """Takes no messages. Does not start, and says why, when the address is taken."""

    def __init__(
        self,
        spec: PeerListenSpec,
        handlers: Sequence[grpc.GenericRpcHandler],
        certificates: Certificates | None,
        *,
        links: ServedLinks,
        channels: PeerChannels,
        bound: Callable[[PeerDoor], None],
    ) -> None:
        self._spec = spec
        self._handlers = handlers
        self._certificates = certificates
        self._links = links
        self._channels = channels
        self._bound = bound

    async def on_start(self) -> None:
        ready = anyio.Event()
        self._links.close_soon = self._close_soon
        self.start_soon(self._keep_serving, ready, name="peer server")
        await ready.wait()

    async def _keep_serving(self, ready: anyio.Event) -> None:
        handlers = [*self._handlers, *self._channels.handlers]
        try:
            async with serving_peers(self._spec, handlers, self._certificates) as door:
                self._bound(door)
                ready.set()
                await anyio.sleep_forever()
        finally:
            self._links.close_soon = None

    async def on_stop(self) -> None:
        """The links of this node's own have ended before."""
        await self._channels.aclose()

    def _close_soon(self, connection: Connection) -> None:
        self.start_soon(connection.aclose, name="close data connection")

    def receive(self, msg: Never) -> object:
        assert_never(msg)
