"""Data channels over gRPC: a stream of raw bytes beside the control stream, under the same encryption.

    endpoint = GrpcEndpoint(chunk_bytes=MIB, show_within_s=5)
    server.add_generic_rpc_handlers((data_handler(endpoint),))       # where peers reach us
    connection = await endpoint.over(channel).dial(offer, secret, within=5)

A connection is one stream. Exactly one task reads it and one writes; none of them belongs to a request, for gRPC ends
a call whose read is given up. Bytes of several sends go out in turns, a message each. The memory of a piece is read in
steps of the loop that copy one message at most; a landing is written in such steps, too. Data is best sent over a gRPC
channel of its own (`grpc.use_local_subchannel_pool`), so that heartbeats do not stand behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc

from penstock.runtime.channel import Accepted, ChannelKind, ChannelLost, Connection, Endpoint
from penstock.runtime.grpc_frames import Malformed, Word, show, shown
from penstock.runtime.grpc_stream import GrpcConnection, RawStream
from penstock.runtime.log import Log
from penstock.runtime.units import MIB

METHOD = "/penstock.v1.Peer/Data"
OFFER = b"\x01"  # the version of this protocol: where to dial is known, it is where the link was dialled
# Of a gRPC channel that dials one: what comes may be so far ahead of its reader, who copies each message. Seen to give
# a tenth more. Not of the server: there it would be for each call of every peer.
LOOKAHEAD_BYTES = 4 * MIB
Metadata = Sequence[tuple[str, str | bytes]]
Context = grpc.aio.ServicerContext[Any, Any]


class GrpcEndpoint:
    """The listening side; `over` a channel to a peer it dials."""

    kind = ChannelKind.GRPC

    def __init__(
        self, *, chunk_bytes: int = MIB, show_within_s: float = 5.0, strangers_max: int = 64
    ) -> None:
        """Streams that have shown no secret yet: `strangers_max` at once, each for `show_within_s`."""
        self._chunk_bytes = chunk_bytes
        self._show_within_s = show_within_s
        self._strangers_max = strangers_max
        self._expected: dict[bytes, Accepted] = {}  # by digest: comparing it tells nothing
        self._strangers = 0  # <= strangers_max
        self._connections: set[GrpcConnection] = set()
        self._is_closed = False
        self._log = Log("grpc_channel")
        self.strangers_refused = 0  # streams that were not expected

    def offer(self) -> bytes:
        return OFFER

    def expect(self, secret: bytes, accepted: Accepted) -> None:
        self._expected[_digest(secret)] = accepted

    def forget(self, secret: bytes) -> None:
        self._expected.pop(_digest(secret), None)

    def over(self, channel: grpc.aio.Channel, metadata: Metadata = ()) -> Endpoint:
        """This endpoint, dialling the peer at the other end of `channel`, which it does not close."""
        return _Over(self, channel, metadata)

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> Connection:
        raise ChannelLost("no gRPC channel leads there: dial by over(channel)")

    async def aclose(self) -> None:
        self._is_closed = True
        self._expected.clear()
        for connection in list(self._connections):
            await connection.aclose()

    async def dial_over(
        self, channel: grpc.aio.Channel, metadata: Metadata, secret: bytes, *, within: float
    ) -> Connection:
        """Raises ChannelLost."""
        self._check_open()
        try:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)(
                metadata=tuple(metadata)
            )
        except grpc.aio.BaseError as error:
            raise ChannelLost(f"the gRPC channel is of no use: {error}") from None
        stream = RawStream(call.read, call.write)
        connection: GrpcConnection | None = None
        try:
            async with asyncio.timeout(within):
                await stream.write(show(secret))
                answer = await stream.read()
            self._check_open()
            if answer != bytes((Word.TAKEN,)):
                raise ChannelLost("the peer expects no such connection")
            connection = GrpcConnection(stream, self._chunk_bytes)
        except TimeoutError:
            raise ChannelLost(f"no answer within {within:g} s") from None
        finally:
            if connection is None:
                call.cancel()
        self._keep(connection)
        connection.begin(call.cancel)
        return connection

    async def serve(self, _: object, context: Context) -> None:
        """The rpc Data."""
        if self._is_closed or self._strangers >= self._strangers_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams that show no secret"
            )
        stream = RawStream(context.read, context.write)
        accepted = await self._meet(stream)
        if accepted is None or self._is_closed:
            self.strangers_refused += 1
            self._log.warning_once("stranger_refused", peer=context.peer())
            return
        # Before any write: one that is cancelled half-way must not leave gRPC to send this twice.
        await context.send_initial_metadata(())
        connection = GrpcConnection(stream, self._chunk_bytes)
        self._keep(connection)
        accepted(connection)
        connection.say_taken()
        await connection.run()

    async def _meet(self, stream: RawStream) -> Accepted | None:
        """Who waits for the secret that the stream shows."""
        self._strangers += 1
        try:
            async with asyncio.timeout(self._show_within_s):
                raw = await stream.read()
            return self._expected.pop(_digest(shown(raw)), None) if raw else None
        except (TimeoutError, Malformed, ChannelLost):
            return None
        finally:
            self._strangers -= 1

    def _keep(self, connection: GrpcConnection) -> None:
        self._connections.add(connection)
        connection.when_over(self._connections.discard)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ChannelLost("this endpoint is closed")


class _Over:
    """An endpoint with a way to one peer."""

    kind = ChannelKind.GRPC

    def __init__(
        self, endpoint: GrpcEndpoint, channel: grpc.aio.Channel, metadata: Metadata
    ) -> None:
        self._channel = channel
        self._metadata = metadata
        self._endpoint = endpoint
        self.offer: Callable[[], bytes] = endpoint.offer
        self.expect: Callable[[bytes, Accepted], None] = endpoint.expect
        self.forget: Callable[[bytes], None] = endpoint.forget
        self.aclose: Callable[[], Coroutine[Any, Any, None]] = endpoint.aclose

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> Connection:
        if offer != OFFER:
            raise ChannelLost("the peer speaks another version of this channel")
        return await self._endpoint.dial_over(self._channel, self._metadata, secret, within=within)


class _DataHandler(grpc.GenericRpcHandler):
    def __init__(self, serve: Callable[[object, Context], Awaitable[None]]) -> None:
        self._method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(serve)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._method if handler_call_details.method == METHOD else None


def data_handler(endpoint: GrpcEndpoint) -> grpc.GenericRpcHandler:
    """What the server for peers is to mount. Its messages must be allowed the chunk's bytes and 1 KiB."""
    return _DataHandler(endpoint.serve)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
