"""The HTTP server of a router: who may call, how much at once, and which path goes where."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from penstock.actors.node_settings import read_token
from penstock.actors.router.backends import Pool
from penstock.actors.router.config import RouterConfig
from penstock.actors.router.metrics import RouterMetrics
from penstock.actors.router.relay import Relay
from penstock.runtime.errors import ConfigError, StartFailed
from penstock.runtime.security import Secret, TcpAddress
from penstock.runtime.telemetry import Telemetry

PROMPT_PATHS = ("/v1/completions", "/v1/chat/completions")
OPEN_PATHS = frozenset(("/health",))  # answered without a token
SHUTDOWN_S = 10.0  # answers under way when the router stops get this long

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RouterServer:
    """Everything a router has, while `running` runs."""

    def __init__(
        self, config: RouterConfig, pool: Pool, relay: Relay, telemetry: Telemetry
    ) -> None:
        self._config = config
        self._pool = pool
        self._relay = relay
        self._telemetry = telemetry
        self._token = (
            None if config.token_file is None else read_token("token_file", config.token_file)
        )
        self._under_way = 0

    def application(self) -> web.Application:
        made = web.Application(
            client_max_size=int(self._config.body_max), middlewares=[self._guard]
        )
        for path in PROMPT_PATHS:
            made.router.add_post(path, self._relay.serve)
        made.router.add_get("/health", self._health)
        made.router.add_get("/metrics", self._metrics)
        made.router.add_route("*", "/v1/{rest:.*}", self._relay.pass_on)
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refusals have the form that OpenAI's clients read."""
        try:
            return await self._admitted(request, handler)
        except web.HTTPException as refusal:
            error = {"message": refusal.text, "type": refusal.reason, "code": refusal.status}
            return web.json_response({"error": error}, status=refusal.status)

    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS:
            return await handler(request)
        if self._token is not None and not _shows(request, self._token):
            raise web.HTTPUnauthorized(text="send the header 'Authorization: Bearer <token>'")
        if self._under_way >= self._config.requests_max:
            raise web.HTTPServiceUnavailable(
                text=f"requests_max = {self._config.requests_max} are under way: try later"
            )
        self._under_way += 1
        try:
            return await handler(request)
        finally:
            self._under_way -= 1

    async def _health(self, _: web.Request) -> web.Response:
        away = [one.config.name for one in self._pool.backends if self._pool.is_away(one)]
        is_dead = len(away) == len(self._pool.backends)
        return web.json_response(
            {"status": "unavailable" if is_dead else "ok", "away": away},
            status=503 if is_dead else 200,
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._telemetry.exposition(), content_type="text/plain")


def _shows(request: web.Request, token: Secret) -> bool:
    return token.matches(request.headers.get("Authorization", "").removeprefix("Bearer "))


@asynccontextmanager
async def routing(config: RouterConfig) -> AsyncIterator[TcpAddress]:
    """Run a router while the body runs. Yields the address bound. Raises ConfigError, StartFailed."""
    telemetry = Telemetry()
    pool = Pool(
        config.backends, names_max=config.names_max, away_s=config.away_for, clock=time.monotonic
    )
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=config.connect_within, sock_read=config.silence_within
    )
    connector = aiohttp.TCPConnector(limit=2 * config.requests_max)
    async with aiohttp.ClientSession(
        timeout=timeout,
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        relay = Relay(config, pool, session, RouterMetrics(telemetry, pool))
        server = RouterServer(config, pool, relay, telemetry)
        runner = web.AppRunner(
            server.application(), handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
        )
        await runner.setup()
        try:
            yield await _listen(runner, config)
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, config: RouterConfig) -> TcpAddress:
    address = config.address
    site = web.TCPSite(runner, address.host, address.port, ssl_context=_tls(config))
    try:
        await site.start()
    except OSError as taken:
        raise StartFailed(f"cannot listen on {address.target()}: {taken.strerror}") from taken
    return TcpAddress(address.host, runner.addresses[0][1])


def _tls(config: RouterConfig) -> ssl.SSLContext | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except OSError as unreadable:  # ssl's errors are of this kind, too
        problem = f"{config.tls_certificate}, {config.tls_key}: {unreadable.strerror}"
        raise ConfigError("tls_certificate", problem) from None
    return context
