"""What nodes ask of each other for their operators: garbage, silence and other releases cost only the one who asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import anyio
import pytest

from penstock.actors.api.errors import Denied, InvalidField, TooLarge
from penstock.actors.api.peers import PeerLink, PeerRefused, ServedLink
from penstock.actors.fleet_calls import (
    DESCRIBE,
    EVICT,
    FIND,
    PIN,
    SET_QUOTA,
    ask_peer,
    fleet_handlers,
)
from penstock.actors.fleet_desk import FleetDesk, check_chunks
from penstock.actors.peer_codec import NotOurs
from penstock.protos.fleet_pb2 import ChunksHeld, ChunksRequest, DescribeRequest, NodeDescription
from penstock.runtime.errors import DeadlineExceeded

pytestmark = pytest.mark.anyio
GARBAGE = b"\xff\xff\xff"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Desk:
    """Answers at once, or never."""

    def __init__(self, *, is_silent: bool = False) -> None:
        self.is_silent = is_silent

    async def describe(self, _: DescribeRequest) -> NodeDescription:
        if self.is_silent:
            await anyio.sleep_forever()
        return NodeDescription(version="1")

    async def find(self, request: ChunksRequest) -> ChunksHeld:
        return ChunksHeld(known=True, hit_chunks=len(request.chunk_keys) // 32)

    evict = pin = set_quota = find


class Stream:
    """One call. `heard`: what the other side says; then it says no more, or nothing for ever."""

    def __init__(self, heard: Sequence[bytes], *, is_silent: bool = False) -> None:
        self._heard = [*heard]
        self._is_silent = is_silent
        self.written: list[bytes] = []
        self.is_over = False

    async def read(self) -> bytes | None:
        if not self._heard and self._is_silent:
            await anyio.sleep_forever()
        return self._heard.pop(0) if self._heard else None

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def finish(self) -> None:
        return None

    def cancel(self) -> None:
        self.is_over = True


class Link:
    """To node b. Every call is `calls`."""

    node_id = "b"

    def __init__(self, call: Stream) -> None:
        self._call = call

    def stream(self, _: str) -> Stream:
        return self._call


def link_of(call: Stream) -> PeerLink:
    return cast(PeerLink, Link(call))


async def serve(
    method: str,
    stream: Stream,
    desk: Desk,
    *,
    within_s: float = 5,
    operators: Collection[str] = ("b",),
) -> None:
    handlers = fleet_handlers(cast(FleetDesk, desk), within_s=within_s, operators=operators)
    await handlers[method](cast(ServedLink, Link(stream)), stream)


async def test_one_request_is_one_answer() -> None:
    request = ChunksRequest(chunk_keys=bytes(96)).SerializeToString()
    for method in (FIND, EVICT):
        stream = Stream([request])
        await serve(method, stream, Desk())
        assert ChunksHeld.FromString(stream.written[0]).hit_chunks == 3


@pytest.mark.parametrize("heard", [[], [GARBAGE]])
@pytest.mark.parametrize("method", [DESCRIBE, FIND, EVICT])
async def test_what_is_no_request_is_refused(method: str, heard: list[bytes]) -> None:
    stream = Stream(heard)
    with pytest.raises(NotOurs):
        await serve(method, stream, Desk())
    assert not stream.written


async def test_who_asks_for_nothing_is_not_waited_for() -> None:
    with pytest.raises(DeadlineExceeded, match="a call by b"):
        await serve(FIND, Stream([], is_silent=True), Desk(), within_s=0.02)


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(DeadlineExceeded):
        await serve(DESCRIBE, Stream([b""]), Desk(is_silent=True), within_s=0.02)


async def test_a_peer_is_asked_and_its_call_ends_with_the_answer() -> None:
    call = Stream([ChunksHeld(hit_chunks=2).SerializeToString()])
    told = await ask_peer(link_of(call), FIND, ChunksRequest(), ChunksHeld, within=5)
    assert told.hit_chunks == 2
    assert call.is_over


@pytest.mark.parametrize("heard", [[], [GARBAGE]])
async def test_a_peer_that_answers_something_else_is_told_by_its_name(heard: list[bytes]) -> None:
    call = Stream(heard)
    with pytest.raises(PeerRefused, match="b"):
        await ask_peer(link_of(call), FIND, ChunksRequest(), ChunksHeld, within=5)
    assert call.is_over


async def test_a_silent_peer_costs_no_more_than_the_time_that_was_given() -> None:
    call = Stream([], is_silent=True)
    with pytest.raises(DeadlineExceeded, match="b has not answered"):
        await ask_peer(link_of(call), FIND, ChunksRequest(), ChunksHeld, within=0.02)
    assert call.is_over


async def test_giving_up_ends_the_call() -> None:
    call = Stream([], is_silent=True)
    with anyio.move_on_after(0.02):
        await ask_peer(link_of(call), FIND, ChunksRequest(), ChunksHeld, within=5)
    assert call.is_over


def test_prompts_are_checked_before_anybody_is_asked() -> None:
    whole = ChunksRequest(namespace_digest=bytes(32), chunk_keys=bytes(64))
    check_chunks(whole, chunks_max=2)
    with pytest.raises(TooLarge, match="2 chunks, the bound is 1"):
        check_chunks(whole, chunks_max=1)
    with pytest.raises(InvalidField, match="a digest has 32 bytes"):
        check_chunks(ChunksRequest(chunk_keys=bytes(64)), chunks_max=2)
    with pytest.raises(InvalidField, match="a key has 32 bytes"):
        check_chunks(ChunksRequest(namespace_digest=bytes(32), chunk_keys=bytes(63)), chunks_max=2)


@pytest.mark.parametrize("method", [EVICT, PIN, SET_QUOTA])
async def test_a_peer_changes_nothing_here_unless_it_is_an_operator(method: str) -> None:
    """Seen to fail where whoever is a node of the cluster may do an operator's work."""
    stream = Stream([ChunksRequest(chunk_keys=bytes(96)).SerializeToString()])
    with pytest.raises(Denied, match=r"b is none of this node's cluster\.operators"):
        await serve(method, stream, Desk(), operators=("a", "c"))
    assert not stream.written


async def test_every_peer_may_look() -> None:
    stream = Stream([ChunksRequest(chunk_keys=bytes(96)).SerializeToString()])
    await serve(FIND, stream, Desk(), operators=())
    assert stream.written
