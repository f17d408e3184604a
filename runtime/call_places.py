"""How many gRPC calls may be under way at once, by what they are for: a flood of one kind takes no place of another."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeAlias

import grpc
from anyio import move_on_after

from penstock.runtime.errors import CapacityError, DeadlineExceeded

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_MAKERS: Mapping[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class TooManyCalls(CapacityError):
    """Nobody's: the node serves as many calls of this kind as it may."""


class SilentClient(DeadlineExceeded):
    """The client's: its call is open, and it neither sends nor reads."""


class Places:
    """The places of one kind of call, shared by all listening addresses. Belongs to the loop."""

    def __init__(self, kind: str, calls_max: int, *, key: str, silent_s: float = math.inf) -> None:
        """`kind`: in the plural, for refusals. `key`: of the configuration, which sets `calls_max`. `silent_s`: how
        long a client that streams its requests keeps its place while it neither sends nor reads."""
        self._kind = kind
        self._calls_max = calls_max
        self._key = key
        self._silent_s = silent_s
        self._taken = 0  # <= calls_max

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises TooManyCalls."""
        self.check()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def check(self) -> None:
        """Raises TooManyCalls when no place is free."""
        if self._taken >= self._calls_max:
            raise TooManyCalls(
                f"{self._taken} {self._kind} are under way, the bound is {self._key}:"
                " come back when some are over, or raise it in the node's configuration"
            )

    @contextmanager
    def while_heard(self) -> Iterator[None]:
        """Around one wait for the client. Raises SilentClient."""
        with move_on_after(self._silent_s) as scope:
            yield
        if scope.cancelled_caught:
            raise SilentClient(
                f"{self._kind} are ended when their client neither sends nor reads for"
                f" {self._silent_s:g} s: call again"
            )


class CallPlaces(grpc.aio.ServerInterceptor):
    """Gives every call a place of its kind while it is served, or refuses it with RESOURCE_EXHAUSTED."""

    def __init__(self, kinds: Mapping[str, Places | None], otherwise: Places) -> None:
        """`kinds`: by method ("/service/method") or by service ("/service"), the method first. None: the method looks
        after its own bound."""
        self._kinds = kinds
        self._otherwise = otherwise

    def _places(self, method: str) -> Places | None:
        service = method.rpartition("/")[0]
        return self._kinds.get(method, self._kinds.get(service, self._otherwise))

    async def intercept_service(self, continuation, handler_call_details):  # type: ignore[no-untyped-def]
        handler = await continuation(handler_call_details)
        places = self._places(handler_call_details.method)
        if handler is None or places is None:
            return handler
        try:
            places.check()
        except TooManyCalls as refusal:
            return _refusing(str(refusal))
        return _placed(handler, places)


def _refusing(words: str) -> Handler:
    """One of streams, whatever the call is: so gRPC does not take a message from the transport before."""

    async def refuse(_: object, context: Context) -> None:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, words)

    return grpc.stream_stream_rpc_method_handler(refuse)


class _Heard:
    """The requests of a stream, each waited for as long as its place allows."""

    def __init__(self, requests: AsyncIterable[object], places: Places) -> None:
        self._requests = aiter(requests)
        self._places = places

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        with self._places.while_heard():
            return await anext(self._requests)


def _placed(handler: Handler, places: Places) -> Handler:
    """`handler`, holding a place while it runs. A client that has not sent its one request yet holds none; one that
    streams requests holds its place from the beginning."""
    shape = (handler.request_streaming, handler.response_streaming)
    behaviours = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    behaviour: Any = next(one for one in behaviours if one is not None)

    async def serve(request: Any, context: Context) -> object:
        try:
            with places.one():
                if not inspect.isasyncgenfunction(behaviour):
                    return await behaviour(request, context)
                given = _Heard(request, places) if handler.request_streaming else request
                async for reply in behaviour(given, context):
                    with places.while_heard():
                        await context.write(reply)
        except TooManyCalls as refusal:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(refusal))
        except SilentClient as refusal:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(refusal))
        return None

    return _MAKERS[shape](
        serve,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
