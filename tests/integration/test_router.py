"""The HTTP router: which engine gets a prompt, and what its client sees when engines fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from support.fake_engines import FakeEngine, engines

from penstock.actors.router.config import BackendConfig, PushOrder, Role, RouterConfig
from penstock.actors.router.server import routing
from penstock.runtime.units import ByteSize, Seconds

pytestmark = pytest.mark.anyio
LONG = "All prompts of this family begin with the same long text. " * 200


def mixed(made: list[FakeEngine]) -> tuple[BackendConfig, ...]:
    return tuple(BackendConfig(name=f"e{n}", url=one.url) for n, one in enumerate(made))


def pair(made: list[FakeEngine]) -> tuple[BackendConfig, ...]:
    return (
        BackendConfig(name="p", url=made[0].url, role=Role.PREFILL, node="a"),
        BackendConfig(name="d", url=made[1].url, role=Role.DECODE, node="b"),
    )


@asynccontextmanager
async def router(
    backends: tuple[BackendConfig, ...], **given: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a router."""
    given = {"connect_within": Seconds(1), "away_for": Seconds(0.2), **given}
    config = RouterConfig(backends=backends, listen="127.0.0.1:0", **given)
    async with (
        routing(config) as address,
        aiohttp.ClientSession(base_url=f"http://{address.target()}") as client,
    ):
        yield client


async def complete(client: aiohttp.ClientSession, prompt: str, **more: Any) -> tuple[int, Any]:
    body = {"model": "m", "prompt": prompt, **more}
    async with client.post("/v1/completions", json=body) as reply:
        return reply.status, await reply.json()


async def metric(client: aiohttp.ClientSession, name: str) -> float:
    """The sum over its labels."""
    async with client.get("/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def test_prompts_that_begin_alike_go_to_the_same_engine() -> None:
    async with engines(4) as made, router(mixed(made)) as client:
        for number in range(12):
            assert (await complete(client, LONG + str(number)))[0] == 200
        assert sorted(len(one.asked) for one in made) == [0, 0, 0, 12]
        held = await metric(client, "penstock_router_held_parts_total")
        assert held == 11 * (len(LONG) // 1024)


async def test_prompts_under_way_at_once_are_spread() -> None:
    """What waits counts as much as what is held: an engine that hangs does not attract all of a family."""
    waiting, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        waiting.release()
        await go_on.wait()
        return web.json_response({})

    async with (
        engines(4) as made,
        router(mixed(made)) as client,
        anyio.create_task_group() as group,
    ):
        for one in made:
            one.answer = wait
        for number in range(8):
            group.start_soon(complete, client, f"{number}" + LONG)
            await waiting.acquire()
        assert [len(one.asked) for one in made] == [2, 2, 2, 2]
        go_on.set()


async def test_a_dead_engine_is_passed_over_and_comes_back() -> None:
    async with engines(2) as made, router(mixed(made)) as client:
        await made[0].stop()
        for number in range(6):
            assert (await complete(client, f"{number} {LONG}"))[0] == 200
        assert len(made[1].asked) == 6
        assert await metric(client, "penstock_router_misses_total{") >= 1
        async with client.get("/health") as reply:
            assert reply.status == 200


async def test_no_engine_left_is_a_503_that_clients_can_read() -> None:
    async with engines(1) as made, router(mixed(made)) as client:
        await made[0].stop()
        status, answer = await complete(client, LONG)
        assert status == 503
        assert "engine" in answer["error"]["message"]
        async with client.get("/health") as reply:
            assert reply.status == 503


async def test_a_busy_engine_is_passed_over_and_its_refusals_are_passed_on() -> None:
    async def busy(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable

    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no such model"}}, status=404)

    async with engines(2) as made, router(mixed(made)) as client:
        for one in made:
            one.answer = busy
        made[1].answer = refuse
        for number in range(4):
            status, answer = await complete(client, f"{number}{LONG}")
            assert (status, answer["error"]["message"]) == (404, "no such model")


async def test_a_stream_goes_through_as_it_comes() -> None:
    go_on = asyncio.Event()

    async def stream(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await go_on.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async with engines(1) as made, router(mixed(made)) as client:
        made[0].answer = stream
        async with client.post("/v1/chat/completions", json={"messages": []}) as reply:
            assert reply.content_type == "text/event-stream"
            assert await reply.content.readany() == b"data: 1\n\n"
            go_on.set()
            assert await reply.content.read() == b"data: [DONE]\n\n"


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    """Seen to fail where the router ends its own answer in order: the client takes half of it for all."""

    async def break_off(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with engines(1) as made, router(mixed(made)) as client:
        made[0].answer = break_off
        with pytest.raises(aiohttp.ClientError):
            async with client.post("/v1/completions", json={"prompt": "x"}) as reply:
                await reply.read()
        assert await metric(client, "penstock_router_misses_total{") == 1


async def test_a_client_that_goes_takes_its_request_with_it() -> None:
    asked = asyncio.Event()

    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with engines(1) as made, router(mixed(made)) as client:
        made[0].answer = wait
        async with anyio.create_task_group() as group:
            group.start_soon(complete, client, LONG)
            await asked.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await made[0].given_up.wait()
        with anyio.fail_after(5):
            while await metric(client, "penstock_router_queued_parts"):
                await anyio.lowlevel.checkpoint()


async def test_a_silent_engine_is_a_504() -> None:
    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with engines(1) as made, router(mixed(made), silence_within=Seconds(0.2)) as client:
        made[0].answer = wait
        status, answer = await complete(client, "x")
        assert status == 504
        assert "e0" in answer["error"]["message"]


async def test_bounds_and_tokens_are_kept(tmp_path: Path) -> None:
    """C10, D4 of the router: size, number, token."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with engines(1) as made:
        bounds = {"body_max": ByteSize(4096), "token_file": token}
        async with router(mixed(made), **bounds) as client:
            assert (await complete(client, "x"))[0] == 401
            client.headers["Authorization"] = "Bearer secret"
            assert (await complete(client, "x"))[0] == 200
            assert (await complete(client, "x" * 5000))[0] == 413
            async with client.post("/v1/completions", data=b"[" * 4000) as reply:
                assert reply.status == 400
        assert len(made[0].asked) == 1
        assert "Authorization" not in made[0].headers[0]


async def test_one_request_too_many_is_refused() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return web.json_response({})

    async with engines(1) as made, router(mixed(made), requests_max=1) as client:
        made[0].answer = wait
        async with anyio.create_task_group() as group:
            group.start_soon(complete, client, "x")
            await asked.wait()
            async with client.post("/v1/completions", json={}) as reply:
                assert reply.status == 503
                assert "requests_max" in (await reply.json())["error"]["message"]
            go_on.set()


async def test_other_paths_are_passed_on() -> None:
    async with engines(1) as made, router(mixed(made)) as client:
        async with client.get("/v1/models?x=1") as reply:
            assert reply.status == 200
        async with client.get("/elsewhere") as reply:
            assert reply.status == 404
        assert len(made[0].asked) == 1


async def test_prefill_pushes_to_the_node_of_the_engine_that_decodes() -> None:
    async def prefill(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        told = {"do_remote_prefill": True, "from": "a"}
        return web.json_response({"kv_transfer_params": told})

    async with engines(2) as made, router(pair(made)) as client:
        made[0].answer = prefill
        status, _ = await complete(client, LONG, max_tokens=64, stream=True)
        assert status == 200
        (asked,), (decoded,) = made[0].asked, made[1].asked
        assert asked["kv_transfer_params"]["target"] == "b"
        assert asked["kv_transfer_params"]["do_remote_decode"] is True
        assert (asked["max_tokens"], asked["stream"]) == (1, False)
        assert (decoded["max_tokens"], decoded["stream"]) == (64, True)
        assert decoded["kv_transfer_params"] == {"do_remote_prefill": True, "from": "a"}
        assert made[0].headers[0]["X-Request-Id"] == made[1].headers[0]["X-Request-Id"]


async def test_both_hear_at_once_and_decode_waits_for_the_push() -> None:
    together = asyncio.Barrier(2)

    async def meet(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await together.wait()
        return web.json_response({"ok": True})

    async with (
        engines(2) as made,
        router(pair(made), push_order=PushOrder.TOGETHER) as client,
    ):
        for one in made:
            one.answer = meet
        with anyio.fail_after(10):
            assert await complete(client, LONG) == (200, {"ok": True})
        wanted, expected = (one.asked[0]["kv_transfer_params"] for one in made)
        assert wanted["request_id"] == expected["request_id"]
        assert expected["do_remote_prefill"] is True


async def test_pushes_of_two_clients_with_one_request_id_are_two() -> None:
    """Seen to fail where the client's own id names the push: the second one is refused as another prompt's."""
    async with engines(2) as made, router(pair(made)) as client:
        client.headers["X-Request-Id"] = "mine"
        for prompt in ("a", "b"):
            assert (await complete(client, prompt))[0] == 200
        names = {one["kv_transfer_params"]["request_id"] for one in made[0].asked}
        assert len(names) == 2
        assert {one["X-Request-Id"] for one in made[1].headers} == {"mine"}


@pytest.mark.parametrize("order", list(PushOrder))
async def test_a_dead_prefill_engine_leaves_the_work_to_decode(order: PushOrder) -> None:
    """C8: the proxy outlives it; the request is answered all the same."""
    async with engines(2) as made, router(pair(made), push_order=order) as client:
        await made[0].stop()
        status, _ = await complete(client, LONG)
        assert status == 200
        assert ("kv_transfer_params" in made[1].asked[0]) == (order is PushOrder.TOGETHER)


@pytest.mark.parametrize("order", list(PushOrder))
async def test_a_dead_decode_engine_is_told_to_the_client(order: PushOrder) -> None:
    """Seen to fail where the refusal came out of a task group, which wraps it: a 500."""
    async with engines(2) as made, router(pair(made), push_order=order) as client:
        await made[1].stop()
        status, answer = await complete(client, LONG)
        assert (status, answer["error"]["code"]) == (503, 503)


async def test_what_is_remembered_follows_the_model_and_the_salt() -> None:
    from penstock.actors.router.prompt_names import name_prompt

    plain = name_prompt({"model": "m", "prompt": LONG}, 1024)
    assert plain.parts == len(plain.names) + 1
    assert name_prompt({"model": "n", "prompt": LONG}, 1024).names[0] != plain.names[0]
    salted = name_prompt({"model": "m", "prompt": LONG, "cache_salt": "t"}, 1024)
    assert salted.names[0] != plain.names[0]
    first = [{"role": "user", "content": LONG}]
    longer = [*first, {"role": "assistant", "content": "yes"}]
    short_chat = name_prompt({"messages": first}, 1024)
    long_chat = name_prompt({"messages": longer}, 1024)
    assert long_chat.names[: len(short_chat.names)] == short_chat.names
    tokens = name_prompt({"prompt": list(range(1000))}, 1024)
    assert len(tokens.names) == 3
    assert json.dumps(name_prompt({"prompt": {"a": 1}}, 1024).parts) == "1"
