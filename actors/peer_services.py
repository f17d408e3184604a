"""The gRPC methods that a node serves to its peers, as one table. Bytes of streams pass through as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import grpc

from penstock.actors.api.directory import Directory, NextUpdate, Unwatch, Watch
from penstock.actors.api.peers import StreamHandler
from penstock.actors.call_status import status_of
from penstock.actors.core.link_words import Refusal
from penstock.actors.peer_codec import (
    NotOurs,
    read_ask,
    read_reply_bytes,
    refused_reply,
    watch_reply,
)
from penstock.actors.peer_reads import PeerReads
from penstock.actors.peer_served import ServedLinks, ServedPeer, UnknownLink
from penstock.runtime.deadline import deadline_within
from penstock.runtime.errors import (
    CallerError,
    PenstockError,
    UnavailableError,
)
from penstock.runtime.peer_gate import identity_of
from penstock.runtime.ref import Ref

SERVICE = "/penstock.v1.Peer"
LINK_METADATA = "penstock-link-bin"
REFUSAL_WITHIN_S = 1.0  # to tell it
Context = grpc.aio.ServicerContext[Any, Any]

_REFUSED = {
    Refusal.TOO_MANY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.NOT_ITS_NAME: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.LATE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Refusal.SILENT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Refusal.ENDED: grpc.StatusCode.OK,
}


class PeerServices(grpc.GenericRpcHandler):
    """All methods but the data channel's."""

    def __init__(
        self,
        links: ServedLinks,
        reads: PeerReads,
        directory: Ref[Directory],
        *,
        streams: Mapping[str, StreamHandler],
        ask_s: float,
        watch_s: float,
    ) -> None:
        """`streams`: further methods, by their whole paths. `watch_s`: a watch tells at least so often that nothing has
        changed."""
        self._links = links
        self._reads = reads
        self._directory = directory
        self._ask_s = ask_s
        self._watch_s = watch_s
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            f"{SERVICE}/Link": grpc.stream_stream_rpc_method_handler(self._link),
            f"{SERVICE}/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            f"{SERVICE}/Read": grpc.unary_unary_rpc_method_handler(self._read),
        }
        for path, handler in streams.items():
            self._methods[path] = grpc.stream_stream_rpc_method_handler(self._stream(handler))

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._methods.get(handler_call_details.method)

    async def _link(self, _: object, context: Context) -> None:
        identity = identity_of(context)
        await context.send_initial_metadata(())
        stream = ServerStream(context)
        names = identity.names if identity.is_verified else None
        over = await self._links.serve(stream.read, stream.write, names)
        with anyio.move_on_after(REFUSAL_WITHIN_S):
            await context.write(refused_reply(over.reason))
        context.set_code(_REFUSED.get(over.refusal, grpc.StatusCode.FAILED_PRECONDITION))
        context.set_details(over.reason)

    async def _read(self, raw: bytes, context: Context) -> bytes:
        async def read(link: ServedPeer) -> bytes:
            return read_reply_bytes(await self._reads.serve(link, read_ask(raw)))

        told = await self._of_link(context, read)
        assert told is not None
        return told

    async def _watch(self, _: bytes, context: Context) -> None:
        async def watch(link: ServedPeer) -> None:
            number = await self._directory.ask(Watch(link.node_id), within=self._ask_s)
            next_update = NextUpdate(number, self._watch_s)
            try:
                while True:
                    within = self._watch_s + self._ask_s
                    update = await self._directory.ask(next_update, within=within)
                    if update:
                        await context.write(watch_reply(update))
            finally:
                self._unwatch(Unwatch(number))

        await self._of_link(context, watch)

    def _unwatch(self, msg: Unwatch) -> None:
        try:
            self._directory.tell_nowait(msg)
        except PenstockError:
            return  # a directory that restarts, or stops, knows none of them any more

    def _stream(self, handler: StreamHandler) -> Callable[[object, Context], Awaitable[None]]:
        async def serve(_: object, context: Context) -> None:
            stream = ServerStream(context)
            await self._of_link(context, lambda link: handler(link, stream))

        return serve

    async def _of_link(
        self, context: Context, work: Callable[[ServedPeer], Awaitable[bytes | None]]
    ) -> bytes | None:
        """What a call answers that names its link; what is refused becomes a status."""
        refusal: PenstockError | None = None
        told: bytes | None = None
        try:
            link = self._find(context)
            refusal = UnavailableError("the link was lost")
            with deadline_within(context.time_remaining()), link.call():
                told = await work(link)
                refusal = None
        except NotOurs as strange:
            refusal = CallerError(str(strange))
        except PenstockError as error:
            refusal = error
        if refusal is not None:
            await context.abort(status_of(refusal), str(refusal))
        return told

    def _find(self, context: Context) -> ServedPeer:
        """Raises UnknownLink."""
        given = dict(context.invocation_metadata() or ()).get(LINK_METADATA, b"")
        if not isinstance(given, bytes):
            raise UnknownLink(f"{LINK_METADATA} is missing")
        return self._links.find(given, identity_of(context).may_be)


class ServerStream:
    """A gRPC context that speaks bytes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        raw = await self._context.read()
        return raw if isinstance(raw, bytes) else None

    async def write(self, data: bytes) -> None:
        await self._context.write(data)
