"""A link that this node has dialled, as those see it who ask its peer for something."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import grpc

from penstock.actors.api.peers import (
    LinkLimits,
    PeerAway,
    PeerBusy,
    PeerRefused,
    ReadAsk,
    ReadTold,
    ReadTooLarge,
)
from penstock.actors.api.types import TicketId
from penstock.actors.core.link_words import Welcome
from penstock.actors.peer_codec import NotOurs, read_request, read_told
from penstock.actors.peer_services import LINK_METADATA, SERVICE
from penstock.actors.room import Room
from penstock.runtime.channel import Connection
from penstock.runtime.errors import DeadlineExceeded, PenstockError

ONE = TicketId(b"")  # of a Room: who comes first goes first
_ERRORS: dict[grpc.StatusCode, type[PenstockError]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: PeerBusy,
    grpc.StatusCode.INVALID_ARGUMENT: PeerRefused,
    grpc.StatusCode.PERMISSION_DENIED: PeerRefused,
    grpc.StatusCode.UNIMPLEMENTED: PeerRefused,
    grpc.StatusCode.INTERNAL: PeerRefused,
    grpc.StatusCode.UNKNOWN: PeerRefused,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def refusal_of(error: grpc.aio.AioRpcError, node_id: str) -> PenstockError:
    """What a call of a peer came to, in our words."""
    told = f"{node_id}: {error.details() or error.code().name}"
    return _ERRORS.get(error.code(), PeerAway)(told)


class DialledLink:
    """See `PeerLink`. Its stream and connection are others' to end: they `lose` it."""

    def __init__(
        self, node_id: str, welcome: Welcome, channel: grpc.aio.Channel, connection: Connection
    ) -> None:
        self.node_id = node_id
        self.epoch = welcome.epoch
        self.limits: LinkLimits = welcome.limits
        self.connection = connection
        self.metadata = ((LINK_METADATA, welcome.link_id),)
        self._channel = channel
        self._read_method: Any = channel.unary_unary(f"{SERVICE}/Read")
        self._turns = anyio.Semaphore(welcome.limits.reads_max)
        self._room = Room(welcome.limits.read_bytes_max)
        self._lost = asyncio.Event()
        self._why = ""

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return self._why

    def lose(self, why: str) -> None:
        """Idempotent."""
        if not self.is_lost:
            self._why = why
            self._lost.set()

    async def read(self, ask: ReadAsk, *, within: float) -> ReadTold:
        if ask.slot_bytes > self.limits.read_bytes_max:
            raise ReadTooLarge(
                f"{ask.slot_bytes} bytes of one read, {self.node_id} gives {self.limits.read_bytes_max}"
            )
        ends_s = asyncio.get_running_loop().time() + within
        with anyio.move_on_after(within):
            async with self._turns:
                await self._room.take(ask.slot_bytes, ONE)
                try:
                    return await self._read(ask, ends_s - asyncio.get_running_loop().time())
                finally:
                    self._room.give_back(ask.slot_bytes)
        raise DeadlineExceeded(f"{self.node_id} has not answered a read within {within:.3g} s")

    async def _read(self, ask: ReadAsk, left_s: float) -> ReadTold:
        self._check_there()
        call = self._read_method(read_request(ask), timeout=left_s, metadata=self.metadata)
        try:
            return read_told(await call)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error, self.node_id) from None
        except NotOurs as strange:
            raise PeerRefused(f"{self.node_id}: {strange}") from None

    def stream(self, method: str) -> ClientStream:
        self._check_there()
        call: Any = self._channel.stream_stream(method)(metadata=self.metadata)
        return ClientStream(call, self.node_id)

    def watch(self) -> ClientStream:
        """What it has, update by update, as they came over the wire."""
        self._check_there()
        watch: Any = self._channel.unary_stream(f"{SERVICE}/Watch")
        return ClientStream(watch(b"", metadata=self.metadata), self.node_id)

    def _check_there(self) -> None:
        if self.is_lost:
            raise PeerAway(f"the link to {self.node_id} is lost: {self._why}")


class ClientStream:
    """A gRPC call that speaks bytes; see `OpenStream`."""

    def __init__(self, call: Any, node_id: str) -> None:
        self._call = call
        self._node_id = node_id

    async def read(self) -> bytes | None:
        try:
            raw = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error, self._node_id) from None
        return raw if isinstance(raw, bytes) else None

    async def write(self, data: bytes) -> None:
        try:
            await self._call.write(data)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error, self._node_id) from None
        except asyncio.InvalidStateError:
            raise PeerAway(f"{self._node_id} has ended the call") from None

    async def finish(self) -> None:
        try:
            await self._call.done_writing()
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error, self._node_id) from None

    def cancel(self) -> None:
        self._call.cancel()
