"""The standard health service by itself: who does not read holds up nobody."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from grpc_health.v1 import health_pb2

from penstock.runtime.grpc_health import Serving, ServingHealth

pytestmark = pytest.mark.anyio

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Watcher:
    """The server's side of a Watch. One that does not read never gets past its first write."""

    def __init__(self, *, reads: bool) -> None:
        self.told: list[int] = []
        self._reads = reads
        self._news = anyio.Event()

    async def write(self, reply: health_pb2.HealthCheckResponse) -> None:
        self.told.append(reply.status)
        self._news.set()
        self._news = anyio.Event()
        if not self._reads:
            await anyio.sleep_forever()

    async def heard(self, count: int) -> list[int]:
        with anyio.fail_after(5):
            while len(self.told) < count:
                await self._news.wait()
        return self.told


async def test_a_watcher_that_does_not_read_holds_up_nobody() -> None:
    """C10: the drain goes on, and every other watcher hears of it.

    Seen to fail with grpcio's own servicer, which holds the lock of a service while it writes to one watcher: setting
    its status waited for ever, and with it the drain and the end of the node.
    """
    health = ServingHealth(["penstock.v1.Engine"])
    request: Any = health_pb2.HealthCheckRequest(service="penstock.v1.Engine")
    deaf, good = Watcher(reads=False), Watcher(reads=True)
    async with anyio.create_task_group() as tasks:
        for one in (deaf, good):
            tasks.start_soon(health.Watch, request, one)
            await one.heard(1)
        health.say(Serving.NO)
        assert await good.heard(2) == [SERVING, NOT_SERVING]
        health.say(Serving.NO)
        health.say(Serving.YES)
        assert await good.heard(3) == [SERVING, NOT_SERVING, SERVING], "only what is new is told"
        health.close()
        assert await good.heard(4) == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
        tasks.cancel_scope.cancel()


async def test_after_the_end_there_is_no_way_back() -> None:
    """Seen to fail with `say` not looking at whether it was closed: a late word said SERVING of a closed server."""
    health = ServingHealth([])
    request: Any = health_pb2.HealthCheckRequest()
    context: Any = Watcher(reads=True)
    health.close()
    health.say(Serving.YES)
    assert (await health.Check(request, context)).status == NOT_SERVING
    with anyio.fail_after(5):
        await health.Watch(request, context)
    assert context.told == [NOT_SERVING]
