"""One request on its way: to an engine, or to a prefill engine that pushes to a decode engine, and the answer back.

Nothing of an answer is held: what the engine has written goes to the client as it comes, with the client's own pace.
"""

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from anyio import create_task_group

from penstock.actors.router.backends import Backend, NoBackend, Pool, Turn
from penstock.actors.router.config import PushOrder, Role, RouterConfig
from penstock.actors.router.metrics import RouterMetrics
from penstock.actors.router.prompt_names import PromptNames, name_prompt
from penstock.runtime.log import Log

BLOCK_BYTES = 64 * 1024
PREFILL_BYTES_MAX = 1024 * 1024  # of the answer to a prompt that was only computed
REQUEST_ID = "X-Request-Id"
_NOT_COPIED = frozenset(  # of this connection alone, or made anew
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "x-request-id",
    ]
)


class Miss(enum.Enum):
    """Why the next engine is asked."""

    UNREACHABLE = "unreachable"
    BUSY = "busy"  # it answered 503


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the client sent it."""

    request: web.Request
    body: Mapping[str, Any]  # the JSON object it holds
    prompt: PromptNames
    request_id: str  # the client's, or one made for it
    push_id: str  # nobody else's, whatever ids clients send


class Relay:
    """Sends requests to engines. Errors of the way become statuses: 502, 503 and 504, with one sentence."""

    def __init__(
        self,
        config: RouterConfig,
        pool: Pool,
        session: aiohttp.ClientSession,
        metrics: RouterMetrics,
    ) -> None:
        self._config = config
        self._pool = pool
        self._session = session
        self._metrics = metrics
        self._pushes = any(one.config.role is Role.PREFILL for one in pool.backends)
        # The token that this router asks for is no engine's business.
        own = {"authorization"} if config.token_file is not None else set()
        self._withheld = _NOT_COPIED | own
        self._log = Log("router")

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """A completion or chat request."""
        ask = await self._read(request)
        if self._pushes:
            return await self._push(ask)
        return await self._first_of(ask, (Role.MIXED,), ask.body)

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Anything else, to an engine that answers clients."""
        ask = Ask(request, {}, PromptNames((), 1), "", "")
        return await self._first_of(ask, (Role.MIXED, Role.DECODE), None)

    async def _read(self, request: web.Request) -> Ask:
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            raise web.HTTPBadRequest(text="the body is no JSON") from None
        if not isinstance(body, dict):
            raise web.HTTPBadRequest(text="the body is no JSON object")
        request_id = request.headers.get(REQUEST_ID, "") or uuid.uuid4().hex
        prompt = name_prompt(body, self._config.part_chars)
        return Ask(request, body, prompt, request_id[:256], uuid.uuid4().hex)

    # ------------------------------------------------------------ one engine

    async def _first_of(
        self, ask: Ask, roles: tuple[Role, ...], body: Mapping[str, Any] | None
    ) -> web.StreamResponse:
        """From the first engine that takes it."""
        tried: list[Backend] = []
        while len(tried) < self._config.attempts_max:
            try:
                backend = self._pool.choose(ask.prompt, roles, tried)
            except NoBackend as none_left:
                raise web.HTTPServiceUnavailable(text=str(none_left)) from None
            tried.append(backend)
            answer = await self._through(ask, backend, body)
            if not isinstance(answer, Miss):
                return answer
        raise web.HTTPServiceUnavailable(
            text=f"{len(tried)} engines were tried and none could take this request: try later"
        )

    async def _through(
        self, ask: Ask, backend: Backend, body: Mapping[str, Any] | None
    ) -> web.StreamResponse | Miss:
        held = backend.sent.held(ask.prompt.names)
        with self._pool.sending(backend, ask.prompt) as turn:
            try:
                async with self._asking(ask, backend, body) as reply:
                    if reply.status == 503:
                        self._metrics.tried(backend.config.name, Miss.BUSY.value)
                        return Miss.BUSY
                    self._metrics.sent(backend.config.name, held, ask.prompt.parts)
                    return await self._copy(ask.request, reply, turn)
            except TimeoutError:  # aiohttp's are of this kind, too
                self._metrics.tried(backend.config.name, "silent")
                raise web.HTTPGatewayTimeout(
                    text=f"engine {backend.config.name} said nothing for too long"
                ) from None
            except aiohttp.ClientError as problem:
                self._missed(backend, problem)
                return Miss.UNREACHABLE

    def _asking(
        self, ask: Ask, backend: Backend, body: Mapping[str, Any] | None
    ) -> Any:  # aiohttp's own context manager
        headers = {
            name: value
            for name, value in ask.request.headers.items()
            if name.lower() not in self._withheld
        }
        if ask.request_id:
            headers[REQUEST_ID] = ask.request_id
        data: aiohttp.StreamReader | bytes | None = None
        if body is not None:
            data = json.dumps(body).encode()
        elif ask.request.body_exists:
            data = ask.request.content
        url = backend.config.url.rstrip("/") + ask.request.path_qs
        return self._session.request(
            ask.request.method, url, data=data, headers=headers, allow_redirects=False
        )

    async def _copy(
        self, request: web.Request, reply: aiohttp.ClientResponse, turn: Turn
    ) -> web.StreamResponse:
        """Once its head is sent, an answer that breaks off ends the client's connection: it must not look whole."""
        response = web.StreamResponse(status=reply.status, reason=reply.reason)
        for name, value in reply.headers.items():
            if name.lower() not in _NOT_COPIED:
                response.headers.add(name, value)
        first = await reply.content.readany()
        turn.begun()
        await response.prepare(request)
        try:
            await response.write(first)
            async for block in reply.content.iter_chunked(BLOCK_BYTES):
                await response.write(block)
            await response.write_eof()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as broken:
            self._metrics.tried(turn.backend.config.name, "broke_off")
            self._log.warning("answer_broke_off", engine=turn.backend.config.name, why=str(broken))
            if request.transport is not None:
                request.transport.abort()
        return response

    def _missed(self, backend: Backend, problem: Exception) -> None:
        self._pool.failed(backend)
        self._metrics.tried(backend.config.name, Miss.UNREACHABLE.value)
        self._log.warning("engine_unreachable", engine=backend.config.name, why=str(problem))

    # ------------------------------------------------------------ prefill, then decode

    async def _push(self, ask: Ask) -> web.StreamResponse:
        """Prefill pushes to the node of the decode engine. Where that fails the decode engine computes by itself."""
        try:
            decode = self._pool.choose(ask.prompt, (Role.DECODE,))
        except NoBackend as none_left:
            raise web.HTTPServiceUnavailable(text=str(none_left)) from None
        if self._config.push_order is PushOrder.PREFILL_FIRST:
            told = await self._prefill(ask, decode)
            return await self._decode(ask, decode, told)
        async with create_task_group() as group:
            group.start_soon(self._prefill, ask, decode, name="prefill")
            answer, refusal = None, None
            try:
                answer = await self._decode(ask, decode, _expected(ask))
            except web.HTTPException as refused:  # past the group, which would wrap it
                refusal = refused
            group.cancel_scope.cancel()  # an answer that is over needs no prefill any more
        if answer is None:
            assert refusal is not None
            raise refusal
        return answer

    async def _decode(
        self, ask: Ask, decode: Backend, told: Mapping[str, Any] | None
    ) -> web.StreamResponse:
        body = dict(ask.body)
        if told is not None:
            body["kv_transfer_params"] = dict(told)
        answer = await self._through(ask, decode, body)
        if not isinstance(answer, Miss):
            return answer
        # What was pushed is at the node of that one: any other has to compute.
        return await self._first_of(ask, (Role.DECODE, Role.MIXED), ask.body)

    async def _prefill(self, ask: Ask, decode: Backend) -> Mapping[str, Any] | None:
        """What the decode engine is to be told, or None: nobody has computed the prompt for it."""
        wanted = {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "request_id": ask.push_id,
            "target": decode.config.node,
        }
        body = {**ask.body, "max_tokens": 1, "stream": False, "kv_transfer_params": wanted}
        body.pop("stream_options", None)
        if "max_completion_tokens" in body:
            body["max_completion_tokens"] = 1
        tried: list[Backend] = []
        while len(tried) < self._config.attempts_max:
            try:
                backend = self._pool.choose(ask.prompt, (Role.PREFILL,), tried)
            except NoBackend:
                break
            tried.append(backend)
            with suppress(aiohttp.ClientError, TimeoutError, ValueError):
                if (told := await self._prefilled(ask, backend, body)) is not None:
                    return told
            self._missed_prefill(backend)
        self._metrics.unpushed()
        return None

    async def _prefilled(
        self, ask: Ask, backend: Backend, body: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        held = backend.sent.held(ask.prompt.names)
        with self._pool.sending(backend, ask.prompt):
            async with self._asking(ask, backend, body) as reply:
                answer = json.loads(await _read_up_to(reply, PREFILL_BYTES_MAX))
                if reply.status != 200 or not isinstance(answer, dict):
                    return None
                self._metrics.sent(backend.config.name, held, ask.prompt.parts)
                told = answer.get("kv_transfer_params")
                return told if isinstance(told, dict) else _expected(ask)

    def _missed_prefill(self, backend: Backend) -> None:
        self._pool.failed(backend)
        self._metrics.tried(backend.config.name, "prefill_failed")
        self._log.warning("prefill_failed", engine=backend.config.name)


def _expected(ask: Ask) -> Mapping[str, Any]:
    return {"do_remote_prefill": True, "request_id": ask.push_id}


async def _read_up_to(reply: aiohttp.ClientResponse, size_max: int) -> bytes:
    """Raises ValueError for a longer answer."""
    read = bytearray()
    async for block in reply.content.iter_chunked(BLOCK_BYTES):
        read += block
        if len(read) > size_max:
            raise ValueError(f"the answer has more than {size_max} bytes")
    return bytes(read)
