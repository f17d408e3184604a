"""The standard health service, grpc.health.v1: whether newcomers are welcome, for all services of a server at once."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

Response = health_pb2.HealthCheckResponse
STANDARD_NAMES = (health.SERVICE_NAME, reflection.SERVICE_NAME)
Context = grpc.aio.ServicerContext[Any, Any]


class Serving(enum.Enum):
    YES = Response.SERVING
    NO = Response.NOT_SERVING


class ServingHealth:
    """Check, List and Watch for "", the services named and the standard ones. Belongs to the loop.

    Telling a change never waits: each watcher writes in its own task, and one that does not read holds up nobody.
    """

    def __init__(self, service_names: Iterable[str], serving: Serving = Serving.YES) -> None:
        self.service_names = (*service_names, *STANDARD_NAMES)
        self._names = frozenset({"", *self.service_names})
        self._serving = serving
        self._changed = asyncio.Event()  # set once; each change has its own
        self._is_closed = False

    def say(self, serving: Serving) -> None:
        """From now on, until something else is said. Nothing is changed after `close`."""
        if self._is_closed:
            return
        self._serving = serving
        self._tell()

    def close(self) -> None:
        """NOT_SERVING for good: watchers are told, and then their calls are over."""
        self.say(Serving.NO)
        self._is_closed = True

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Named by the protocol.

    async def Check(self, request: Any, context: Context) -> Any:
        if request.service not in self._names:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"no service {request.service!r} here: ask for one of {sorted(self._names)}",
            )
        return Response(status=self._serving.value)

    async def List(self, _: object, context: Context) -> Any:
        said = Response(status=self._serving.value)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(sorted(self._names), said))

    async def Watch(self, request: Any, context: Context) -> None:
        told = None
        while True:
            changed, is_last = self._changed, self._is_closed
            status = Response.SERVICE_UNKNOWN
            if request.service in self._names:
                status = self._serving.value
            if status != told:
                await context.write(Response(status=status))
                told = status
            if is_last:
                return
            if not changed.is_set():
                await changed.wait()
