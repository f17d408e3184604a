"""Scenarios B12, B17: parts of a node that die are restarted or end it, and a full node makes room at once."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import anyio
import grpc
import pytest
from support.declarations import OBJECT_BYTES, hello, keys
from support.eventually import eventually
from support.nodes import local_node, nobody_reads, served_node
from support.raw_engine import attached, channel_to

from penstock.actors.api.control import GetMetrics
from penstock.actors.control import Control
from penstock.actors.eviction_controller import EvictionController
from penstock.actors.l1_manager import L1Manager
from penstock.actors.sessions import Sessions
from penstock.protos import common_pb2 as wire
from penstock.protos import control_pb2, control_pb2_grpc, engine_pb2_grpc
from penstock.protos import engine_pb2 as pb
from penstock.runtime.errors import Escalated
from penstock.runtime.message import Envelope

pytestmark = pytest.mark.with_stores_too


class Bug(RuntimeError):
    """What must not happen, happening."""


def buggy(kind: type, method: str) -> AbstractContextManager[object]:
    """Actors of this kind die where they come to `method`."""

    def die(*_: object, **__: object) -> object:
        raise Bug("planned")

    return mock.patch.object(kind, method, die)


@pytest.mark.anyio
async def test_an_eviction_controller_that_dies_is_back_and_makes_room() -> None:
    """B12: eviction dies in the middle of making room: the asker is told, health shows the restart, room is made.

    Seen to fail with restarts_max=0 for it, and with a supervisor that lets a dead child lie.
    """
    room = 4 * OBJECT_BYTES
    async with (
        local_node(l1__bytes=room, l1__high_water=1.0, l1__low_water=1.0) as node,
        channel_to(node.address) as channel,
        attached(node.address, hello()) as engine,
    ):
        await engine.put(keys(4))
        await engine.saved(keys(4))
        await nobody_reads(node)
        with buggy(EvictionController, "_evict"):
            refused = await engine.reserve(keys(2, prompt="new"))
        assert refused.error.code == wire.ERROR_CODE_INTERNAL
        health = await engine_pb2_grpc.EngineStub(channel).Health(pb.HealthRequest())
        part = next(one for one in health.parts if one.name == "eviction_controller")
        assert (part.restarts, part.state) == (1, pb.HEALTH_STATE_SERVING)
        assert "planned" in part.detail
        assert health.state == pb.HEALTH_STATE_SERVING
        await engine.put(keys(2, prompt="new"))
        assert node.telemetry.value("penstock_actor_restarts_total", actor="eviction_controller")


@pytest.mark.anyio
async def test_a_gateway_that_dies_is_back_and_its_engines_attach_again() -> None:
    """B12: its streams end, what they held is orphaned, and the same table answers those that come back."""
    async with local_node() as node:
        async with attached(node.address, hello()) as engine:
            await engine.put(keys(2))
            node._refs.gateway.mailbox.put_nowait(Envelope(GetMetrics(), math.inf, None))
            await engine.status()
        async with attached(node.address, hello()) as again:
            assert (await again.lookup(keys(2))).lookup.hit_chunks == 2


@pytest.mark.anyio
async def test_a_control_that_died_still_knows_who_is_attached() -> None:
    """B12: restarted, it had heard of no session and let a drain end at once, cutting off the attached.

    Seen to fail while it counted only what it was told in its own life.
    """
    async with (
        local_node() as node,
        channel_to(node.address) as channel,
        attached(node.address, hello()) as engine,
    ):
        health = engine_pb2_grpc.EngineStub(channel).Health
        with buggy(Control, "_health"), pytest.raises(grpc.aio.AioRpcError, match="control died"):
            await health(pb.HealthRequest())
        assert (await engine.stat()).sessions == 1
        drain = control_pb2_grpc.ControlStub(channel).Drain
        assert (await drain(control_pb2.DrainRequest(within_ms=50))).sessions_left == 1


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "method"), [(L1Manager, "_measure"), (Sessions, "_stream_ended")])
async def test_the_keepers_of_the_epoch_end_the_node(kind: type, method: str) -> None:
    """DESIGN 5: the L1 manager is never restarted over a live arena, nor is who knows whose memory is quarantined."""
    with pytest.raises(Escalated, match="planned"):
        async with local_node() as node:
            async with attached(node.address, hello()) as engine:
                with buggy(kind, method):
                    await engine.begin(stat=pb.StatRequest())
                    await engine.call.done_writing()
                    with anyio.fail_after(5):
                        await node.wait_stopping()


def test_the_crash_of_the_l1_manager_is_a_failure_of_the_process(tmp_path: Path) -> None:
    """B12, DESIGN 5: `penstock serve` exits with another status than 0, and says who died of what.

    Seen to fail with Escalated swallowed in `_serve`.
    """
    prefix = tmp_path / "with_a_bug.py"
    prefix.write_text(
        "import sys\n"
        "from penstock.actors import l1_manager\n"
        "from penstock.actors.cli.main import main\n"
        "def bug(self):\n"
        "    raise RuntimeError('planned')\n"
        "l1_manager.L1Manager._measure = bug\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    with served_node(tmp_path / "state", program=str(prefix)) as node:
        with pytest.raises(grpc.RpcError, match="died of|Socket closed|UNAVAILABLE"):
            node.stat()
        assert node.process.wait(10) == 2
        assert "l1_manager" in node.log
        assert "planned" in node.log
        assert not (tmp_path / "state" / "penstock.sock").exists()


@pytest.mark.anyio
async def test_a_full_node_makes_room_at_once() -> None:
    """B17: NO_ROOM wakes eviction, and the reservation is answered with room in the same breath: no tick is awaited.

    Seen to fail with `_reserve` answering what L1 first said: NO_ROOM until the next pressure.
    """
    room = 8 * OBJECT_BYTES
    async with (
        local_node(l1__bytes=room, l1__high_water=1.0, l1__low_water=1.0) as node,
        attached(node.address, hello()) as engine,
    ):
        for number in range(20):
            begin = time.monotonic()
            await engine.put(keys(3, prompt=f"prompt {number}"))
            assert time.monotonic() - begin < 1.0
            await engine.saved(keys(3, prompt=f"prompt {number}"))
            await nobody_reads(node)
        usage = await node.usage()
        assert usage.evicted_chunks >= 20 * 3 - 8
        assert usage.resident_bytes <= room


@pytest.mark.anyio
async def test_pressure_evicts_down_to_low_water_and_nothing_that_is_held() -> None:
    """DESIGN 9: above high water eviction begins by itself and stops at low water; pinned chunks stay."""
    pages = 100
    async with (
        local_node(
            l1__bytes=pages * OBJECT_BYTES,
            l1__high_water=0.8,
            l1__low_water=0.5,
            l1__evict_batch=4 * OBJECT_BYTES,
        ) as node,
        attached(node.address, hello()) as engine,
    ):
        await engine.put(keys(30, prompt="held"))
        assert (await engine.lookup(keys(30, prompt="held"))).lookup.hit_chunks == 30
        for number in range(10):
            await engine.put(keys(5, prompt=f"free {number}"))
            await engine.saved(keys(5, prompt=f"free {number}"))
        await nobody_reads(node)
        assert (await node.usage()).evicted_chunks == 0
        await engine.put(keys(1, prompt="one too many"))

        async def is_low() -> bool:
            return (await node.usage()).taken_bytes <= 50 * OBJECT_BYTES

        await eventually(is_low, within=2, what="low water is reached")
        usage = await node.usage()
        assert usage.taken_bytes > 40 * OBJECT_BYTES
        assert (await engine.lookup(keys(30, prompt="held"))).lookup.hit_chunks == 30


@pytest.mark.anyio
async def test_when_everything_is_held_the_asker_hears_so() -> None:
    """B17: no room to be made is an answer, not a wait."""
    async with (
        local_node(l1__bytes=4 * OBJECT_BYTES) as node,
        attached(node.address, hello()) as engine,
    ):
        await engine.put(keys(4))
        await engine.lookup(keys(4))
        begin = time.monotonic()
        reserved = (await engine.reserve(keys(2, prompt="new"))).reserved
        assert list(reserved.answers) == [pb.ANSWER_NO_ROOM] * 2
        assert reserved.lease == b""
        assert time.monotonic() - begin < 1.0
