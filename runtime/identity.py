"""Who calls at the service for engines: by which token, with which permissions, for which tenants.

On a Unix socket, and on loopback where no token is asked for, everybody is LOCAL: the file's mode says who may come.
A handler learns who calls it by `calling()`, in the task that gRPC made for the call.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc

from penstock.runtime.log import Log
from penstock.runtime.security import Secret

AUTHORIZATION = "authorization"


class Permission(enum.Enum):
    """What an identity may do; as written in configuration."""

    ENGINE = "engine"  # attach, look up, read and write KV
    PEER = "peer"  # what nodes ask of each other: by certificate alone, never by token
    ADMIN = "admin"  # drain, purge, arenas, metrics


@dataclass(frozen=True, slots=True)
class Identity:
    """Whoever has one token."""

    name: str  # for logs
    permissions: frozenset[Permission]
    tenants: frozenset[bytes] | None = field(default=None, repr=False)  # salts; None: any


LOCAL = Identity("local", frozenset({Permission.ENGINE, Permission.ADMIN}))
_CALLING: ContextVar[Identity] = ContextVar("penstock_identity", default=LOCAL)


def calling() -> Identity:
    """Who made the call that this task serves."""
    return _CALLING.get()


class Identities:
    """Tokens, and whose they are."""

    def __init__(self, known: Sequence[tuple[Secret, Identity]]) -> None:
        self._known = tuple(known)

    def find(self, offered: str) -> Identity | None:
        """Compares with every token, each in constant time: how long it takes tells nothing."""
        found: Identity | None = None
        for token, identity in self._known:
            if token.matches(offered):
                found = identity
        return found


Needs = Mapping[str, Permission | None]
"""By method ("/service/method") or by service ("/service"), the method first; None, or not named: any token."""


class IdentityGuard(grpc.aio.ServerInterceptor):
    """Asks for `authorization: Bearer <token>` on every call, and for the permission that it needs."""

    def __init__(self, identities: Identities, needs: Needs) -> None:
        self._identities = identities
        self._needs = needs
        self._log = Log("identities")

    async def intercept_service(self, continuation, handler_call_details):  # type: ignore[no-untyped-def]
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        offered = dict(handler_call_details.invocation_metadata).get(AUTHORIZATION, "")
        identity = self._identities.find(str(offered).removeprefix("Bearer "))
        if identity is None:
            self._log.warning_once("token_refused", method=handler_call_details.method)
            return _refusing(
                handler,
                grpc.StatusCode.UNAUTHENTICATED,
                "token missing or wrong: send the metadata 'authorization: Bearer <token>'",
            )
        method = handler_call_details.method
        needed = self._needs.get(method, self._needs.get(method.rpartition("/")[0]))
        if needed is not None and needed not in identity.permissions:
            self._log.warning_once(
                "permission_refused", identity.name, method, who=identity.name, method=method
            )
            return _refusing(
                handler,
                grpc.StatusCode.PERMISSION_DENIED,
                f"this needs the permission {needed.value!r}, which {identity.name} has not:"
                " use another token, or grant it in gateway.listen.identities",
            )
        _CALLING.set(identity)  # of this call's task
        return handler


def _refusing(
    handler: grpc.RpcMethodHandler[Any, Any], code: grpc.StatusCode, words: str
) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_: object, context: grpc.aio.ServicerContext[object, object]) -> None:
        await context.abort(code, words)

    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    refusal: grpc.RpcMethodHandler[Any, Any] = make(refuse)
    return refusal
