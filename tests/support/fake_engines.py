"""HTTP servers that answer as engines do, and remember what they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


async def complete(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A completion that says which model was asked for."""
    return web.json_response({"model": body.get("model"), "choices": [{"text": "ok"}]})


class FakeEngine:
    """One engine: `answer` says what to do with each request; `asked` holds their bodies, `headers` their headers."""

    def __init__(self, answer: Answer = complete) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.given_up = asyncio.Event()  # a request was cancelled
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        self.asked.append(body)
        self.headers.append(request.headers)
        try:
            return await self.answer(request, body)
        except asyncio.CancelledError:
            self.given_up.set()
            raise

    async def start(self) -> None:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{rest:.*}", self._serve)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()


@asynccontextmanager
async def engines(count: int) -> AsyncIterator[list[FakeEngine]]:
    made = [FakeEngine() for _ in range(count)]
    for one in made:
        await one.start()
    try:
        yield made
    finally:
        for one in made:
            await one.stop()
