"""Who calls at the service for peers, and how much each may ask.

A peer is known by the DNS names of its certificate, which gRPC has verified before the first call. A handler asks for
them by `identity_of(context)`; no call reaches a handler without them, unless the node serves loopback in the clear.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from penstock.runtime.errors import CallerError, CapacityError
from penstock.runtime.log import Log
from penstock.runtime.membership_config import NODE_ID
from penstock.runtime.strangers import Strangers

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_ACCOUNTS_MAX = 4096  # identities remembered; idle ones go first


class PeerRefused(CallerError):
    """The peer's: its certificate does not stand for what it says."""


class PeerAsksTooMuch(CapacityError):
    """The peer's: it asks more at once, or more a second, than it may."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end of a call."""

    names: frozenset[str]  # node ids that its verified certificate stands for
    is_verified: bool  # False: loopback in the clear, where anybody is taken at their word

    def may_be(self, node_id: str) -> bool:
        return node_id in self.names or not self.is_verified

    def check(self, node_id: str) -> None:
        """Raises PeerRefused unless the other end may call itself `node_id`."""
        if not self.may_be(node_id):
            shown = ", ".join(sorted(self.names))
            raise PeerRefused(
                f"it calls itself {node_id}, but its certificate is for {shown}:"
                f" set its cluster.node_id to that, or issue it a certificate for {node_id}"
            )


def identity_of(context: Context) -> PeerIdentity:
    """Of whoever made this call; from any handler of the service for peers."""
    shown = context.auth_context()
    names = (name.decode("utf-8", "replace") for name in shown.get("peer_dns", ()))
    is_verified = b"ssl" in shown.get("transport_security_type", ())
    return PeerIdentity(frozenset(name for name in names if NODE_ID.fullmatch(name)), is_verified)


class _Account:
    """What one identity asks: calls at once, and a bucket of calls a second, which holds those of one second."""

    __slots__ = ("at", "calls", "tokens")

    def __init__(self, at: float, tokens: float) -> None:
        self.at = at
        self.calls = 0
        self.tokens = tokens

    def take(self, now: float, per_s_max: int) -> bool:
        self.tokens = min(per_s_max, self.tokens + (now - self.at) * per_s_max)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class PeerGate(grpc.aio.ServerInterceptor):
    """Lets calls of peers in, up to the bounds of each. Belongs to the loop."""

    def __init__(
        self,
        strangers: Strangers,
        *,
        calls_max: int,
        calls_per_s_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`calls_max`, `calls_per_s_max`: of one identity, on all its connections."""
        self.strangers = strangers
        self._calls_max = calls_max
        self._calls_per_s_max = calls_per_s_max
        self._clock = clock
        self._accounts: dict[frozenset[str], _Account] = {}
        self._log = Log("peers")
        self.calls_refused = 0

    async def intercept_service(self, continuation, handler_call_details):  # type: ignore[no-untyped-def]
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler)

    @contextmanager
    def admitted(self, identity: PeerIdentity, address: str) -> Iterator[None]:
        """Around one call; `address` stands for who is not verified. Raises PeerRefused, PeerAsksTooMuch."""
        if identity.is_verified and not identity.names:
            self._refused("certificate_names_no_node")
            raise PeerRefused(
                "the certificate names no node: issue one with the node id as DNS name"
            )
        account = self._account(identity.names or frozenset({address}))
        if account.calls >= self._calls_max:
            self._refused("too_many_calls", *sorted(identity.names))
            raise PeerAsksTooMuch(
                f"{account.calls} calls of this peer are under way, the bound is cluster.calls_max"
            )
        if not account.take(self._clock(), self._calls_per_s_max):
            self._refused("too_many_calls_per_second", *sorted(identity.names))
            raise PeerAsksTooMuch(
                f"more than {self._calls_per_s_max} calls a second, which is cluster.calls_per_s_max"
            )
        account.calls += 1
        try:
            yield
        finally:
            account.calls -= 1

    def _account(self, names: frozenset[str]) -> _Account:
        known = self._accounts.get(names)
        if known is None:
            if len(self._accounts) >= _ACCOUNTS_MAX:
                idle = next((key for key, one in self._accounts.items() if not one.calls), None)
                if idle is None:
                    raise PeerAsksTooMuch(f"{_ACCOUNTS_MAX} peers are calling already")
                del self._accounts[idle]
            known = _Account(self._clock(), self._calls_per_s_max)
            self._accounts[names] = known
        return known

    def _seen(self, context: Context) -> tuple[PeerIdentity, str]:
        address = context.peer()
        self.strangers.called(address)
        return identity_of(context), address

    def _refused(self, reason: str, *who: str) -> None:
        self.calls_refused += 1
        self._log.warning_once("peer_call_refused", reason, *who, reason=reason, peer=",".join(who))

    def _guarded(self, handler: Handler) -> Handler:
        behaviour: Any = next(
            one
            for one in (
                handler.unary_unary,
                handler.unary_stream,
                handler.stream_unary,
                handler.stream_stream,
            )
            if one is not None
        )

        async def refuse(context: Context, refusal: PeerRefused | PeerAsksTooMuch) -> None:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            if isinstance(refusal, PeerRefused):
                code = grpc.StatusCode.UNAUTHENTICATED
            await context.abort(code, str(refusal))

        async def serve(request: Any, context: Context) -> object:
            try:
                with self.admitted(*self._seen(context)):
                    return await behaviour(request, context)
            except (PeerRefused, PeerAsksTooMuch) as refusal:
                await refuse(context, refusal)
            return None

        async def serve_many(request: Any, context: Context) -> AsyncIterator[object]:
            try:
                with self.admitted(*self._seen(context)):
                    async with aclosing(behaviour(request, context)) as replies:
                        async for reply in replies:
                            yield reply
            except (PeerRefused, PeerAsksTooMuch) as refusal:
                await refuse(context, refusal)

        is_generator = inspect.isasyncgenfunction(behaviour)
        return _of_shape(handler, serve_many if is_generator else serve)


def _of_shape(handler: Handler, behaviour: Any) -> Handler:
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    made: Handler = make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made
