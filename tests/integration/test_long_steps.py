"""Scenario B12: whatever a client sends, no step of the node's loop takes longer than 5 ms: read from its own count."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.declarations import group, hello
from support.nodes import ServedNode, served_node
from support.raw_engine import RawEngine, attached, channel_to, open_stream

from penstock.protos import common_pb2 as wire
from penstock.protos import engine_pb2 as pb
from penstock.protos import engine_pb2_grpc

# The test's own loop makes and reads the large messages; the node is in another process.
pytestmark = [pytest.mark.anyio, pytest.mark.loop_step_ms(2000)]

MESSAGE = 4 << 20
PROGRAM = str(Path(__file__).parents[1] / "support" / "serve_by_cpu_time.py")
TRIES = 3  # the collector of cycles may come in the midst of a step: not every time

Act = Callable[[str, RawEngine], Awaitable[None]]


def nested(*tags: bytes, body: bytes) -> bytes:
    """`body` inside of one submessage after another; the outermost tag first."""
    for tag in reversed(tags):
        rest, length = len(body), b""
        while rest > 0x7F:
            length += bytes([rest & 0x7F | 0x80])
            rest >>= 7
        body = tag + length + bytes([rest]) + body
    return body


async def many_empty_extras(_: str, engine: RawEngine) -> None:
    raw = nested(b"\x92\x01", b"\x0a", body=b"\x32\x00" * (MESSAGE // 2 - 20))
    engine.news.clear()
    await engine.send(raw)
    (reply,) = await engine.wait_news(1)
    assert reply.error.code == wire.ERROR_CODE_TOO_LARGE


async def many_damaged(_: str, engine: RawEngine) -> None:
    refused = await engine.release(b"x" * 16, damaged=[1] * (MESSAGE - 100))
    assert refused.error.code == wire.ERROR_CODE_TOO_LARGE


async def too_many_tokens_to_peek(address: str, engine: RawEngine) -> None:
    async with channel_to(address) as channel:
        prompt = pb.Prompt(tokens=bytes(MESSAGE // 2))
        asked = pb.PeekRequest(namespace_digest=engine.welcome.namespace_digest, prompt=prompt)
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            await engine_pb2_grpc.EngineStub(channel).Lookup(asked)


async def many_tokens_to_peek(address: str, engine: RawEngine) -> None:
    async with channel_to(address) as channel:
        prompt = pb.Prompt(tokens=bytes(16384 * 16 * 4))
        asked = pb.PeekRequest(namespace_digest=engine.welcome.namespace_digest, prompt=prompt)
        found = await engine_pb2_grpc.EngineStub(channel).Lookup(asked)
        assert found.total_chunks == 16384


async def the_largest_hello(address: str, _: RawEngine) -> None:
    groups = [
        group(f"g{i}", layers=[f"{i}.{j}" * 40 for j in range(32)], shards=16) for i in range(64)
    ]
    async with open_stream(address) as stream:
        assert (await stream.ask(hello=hello(groups=groups))).HasField("welcome")


def slow_steps(node: ServedNode) -> float:
    found = re.search(r"^penstock_loop_slow_steps_total (\S+)$", node.metrics(), re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize(
    "act",
    [
        many_empty_extras,
        many_damaged,
        too_many_tokens_to_peek,
        many_tokens_to_peek,
        the_largest_hello,
    ],
)
async def test_no_message_holds_the_loop(tmp_path: Path, act: Act) -> None:
    """B12: millions of empty parts, lists and tokens up to the bound: refused or served in short steps.

    Seen to fail with messages parsed before they are counted.
    """
    with served_node(tmp_path / "state", program=PROGRAM) as node:
        async with attached(node.address, hello()) as engine:
            counts = [slow_steps(node)]
            for _ in range(TRIES):
                await act(node.address, engine)
                counts.append(slow_steps(node))
                if counts[-1] == counts[-2]:
                    return
            pytest.fail(f"slow steps after each try: {counts}\n{node.log}")
