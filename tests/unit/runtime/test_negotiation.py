"""Which kind of data channel two nodes agree on, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock.runtime.channel import Accepted, ChannelKind, ChannelLost, Connection
from penstock.runtime.log import Log
from penstock.runtime.negotiation import NothingInCommon, PassedOver, connect
from penstock.runtime.sim_loop import simulate

TCP, GRPC, NIXL = ChannelKind.TCP, ChannelKind.GRPC, ChannelKind.NIXL
SECRET = bytes(32)


class FakeConnection:
    """Only who made it matters."""

    def __init__(self, kind: ChannelKind) -> None:
        self.kind = kind


class FakeEndpoint:
    """Dials as it is told to."""

    def __init__(self, kind: ChannelKind, *, fails: str = "", hangs: bool = False) -> None:
        self.kind = kind
        self.dialled: list[tuple[bytes, bytes, float]] = []
        self._fails = fails
        self._hangs = hangs

    def offer(self) -> bytes:
        return b""

    def expect(self, secret: bytes, accepted: Accepted) -> None: ...

    def forget(self, secret: bytes) -> None: ...

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> Connection:
        self.dialled.append((offer, secret, within))
        if self._hangs:
            await asyncio.sleep(within)
            raise ChannelLost(f"no answer within {within:g} s")
        if self._fails:
            raise ChannelLost(self._fails)
        connection: Any = FakeConnection(self.kind)
        return connection  # type: ignore[no-any-return]

    async def aclose(self) -> None: ...


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scene()

    simulate(1, run)


def test_the_first_in_the_listeners_order_that_both_have_is_taken() -> None:
    async def scene() -> None:
        tcp, grpc = FakeEndpoint(TCP), FakeEndpoint(GRPC)
        theirs = [("nixl", b"n"), ("quic", b"q"), ("grpc", b"g"), ("tcp", b"t")]
        done = await connect([tcp, grpc], theirs, SECRET, within=4, log=Log("test"))
        assert done.connection.kind is GRPC
        assert done.passed_over == (
            PassedOver("nixl", "this node does not have it"),
            PassedOver("quic", "this node does not have it"),
        )
        assert (tcp.dialled, grpc.dialled) == ([], [(b"g", SECRET, 2.0)])

    play(scene)


def test_what_does_not_work_falls_back_with_one_line_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """B9: two nodes that reach each other by one way use it, and it is told why not by the others."""

    async def scene() -> None:
        ours = [FakeEndpoint(NIXL, fails="no plugin"), FakeEndpoint(TCP, fails="refused")]
        theirs = [("nixl", b"n"), ("tcp", b"t"), ("grpc", b"g")]
        grpc = FakeEndpoint(GRPC)
        done = await connect([*ours, grpc], theirs, SECRET, within=3, log=Log("test"), peer="b")
        assert done.connection.kind is GRPC
        assert [one.reason for one in done.passed_over] == ["no plugin", "refused"]

    with caplog.at_level(logging.WARNING, "penstock.test"):
        play(scene)
    assert [one.getMessage() for one in caplog.records] == [
        'channel_passed_over kind=nixl peer=b reason="no plugin"',
        "channel_passed_over kind=tcp peer=b reason=refused",
    ]


def test_a_kind_that_hangs_leaves_the_others_their_time() -> None:
    """B9"""

    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        begin = clock()
        tcp, grpc = FakeEndpoint(TCP, hangs=True), FakeEndpoint(GRPC)
        theirs = [("tcp", b"t"), ("grpc", b"g")]
        await connect([tcp, grpc], theirs, SECRET, within=4, log=Log("test"))
        assert clock() - begin == 2
        assert [one[2] for one in (*tcp.dialled, *grpc.dialled)] == [2.0, 2.0]

    play(scene)


def test_all_that_hang_end_in_time() -> None:
    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        begin = clock()
        ours = [FakeEndpoint(kind, hangs=True) for kind in (TCP, GRPC, NIXL)]
        theirs = [("tcp", b"t"), ("grpc", b"g"), ("nixl", b"n")]
        with pytest.raises(NothingInCommon) as nothing:
            await connect(ours, theirs, SECRET, within=6, log=Log("test"))
        assert clock() - begin == pytest.approx(6)
        assert [one.kind for one in nothing.value.passed_over] == ["tcp", "grpc", "nixl"]
        assert "tcp: no answer within 2 s; grpc:" in str(nothing.value)

    play(scene)


@pytest.mark.parametrize("theirs", [[], [("tcp", b"")], [("nixl", b"n")]])
def test_nothing_in_common_is_said(theirs: list[tuple[str, bytes]]) -> None:
    async def scene() -> None:
        with pytest.raises(NothingInCommon, match="no data channel"):
            await connect([FakeEndpoint(TCP)], theirs, SECRET, within=1, log=Log("test"))

    play(scene)


def test_a_kind_that_is_offered_twice_is_tried_once() -> None:
    async def scene() -> None:
        tcp = FakeEndpoint(TCP, fails="refused")
        theirs = [("tcp", b"1")] * 1000
        with pytest.raises(NothingInCommon):
            await connect([tcp], theirs, SECRET, within=1, log=Log("test"))
        assert len(tcp.dialled) == 1

    play(scene)
