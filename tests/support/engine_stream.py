"""One engine stream on virtual time, between a scripted client and stand-ins for the actors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
from support.declarations import CHUNK_TOKENS, keys, namespace
from support.fake_actors import (
    Fake,
    fake_eviction,
    fake_gateway,
    fake_l1,
    fake_sessions,
)

from penstock.actors.api import session
from penstock.actors.api.types import GeometryId, InstanceId, SessionId
from penstock.actors.core.namespace import RootDigests
from penstock.actors.engine_loads import SessionLoads
from penstock.actors.engine_requests import EngineRequests, Neighbours
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.gateway_session import EngineSession, Liveness
from penstock.actors.prompts import Prompts
from penstock.protos import engine_pb2 as pb
from penstock.protos.engine_pb2 import SessionReply, SessionRequest
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import supervise

LIMITS = GatewayLimits(
    message_bytes_max=4096,
    chunks_max=16,
    objects_max=16,
    inflight_max=2,
    leases_max=8,
    tickets_max=8,
    lease_ms_default=30_000,
    lease_ms_max=60_000,
    heartbeat_ms=1000,
    deadline_ms_default=5000,
    deadline_ms_max=20_000,
    outgoing_max=4,
    outgoing_bytes_max=1 << 20,
    stall_s=10.0,
    hello_within_s=5.0,
    streams_max=4,
    kept_prompt_bytes_max=1 << 16,
)


ATTACHED = session.Attached(SessionId(1), InstanceId(1), GeometryId(1), 0)


class FakeStream:
    """The client's side of a stream: what it sent, what it got, and whether it reads at all."""

    def __init__(self) -> None:
        self.got: list[SessionReply] = []
        self.calls: list[str] = []  # of the session: read and write, each as it begins
        self.writes_at_once_max = 0
        self._writes = 0  # under way
        self._sent: asyncio.Queue[object] = asyncio.Queue(maxsize=4096)
        self._is_reading = asyncio.Event()
        self._is_reading.set()
        self._changed = asyncio.Condition()

    async def read(self) -> object:
        self.calls.append("read")
        return await self._sent.get()

    async def write(self, message: bytes) -> None:
        self.calls.append("write")
        self._writes += 1
        self.writes_at_once_max = max(self.writes_at_once_max, self._writes)
        try:
            await self._is_reading.wait()
            async with self._changed:
                self.got.append(SessionReply.FromString(message))
                self._changed.notify_all()
        finally:
            self._writes -= 1

    def send(self, request: SessionRequest | bytes) -> None:
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        self._sent.put_nowait(raw)

    def close(self) -> None:
        self._sent.put_nowait(None)

    @property
    def unread(self) -> int:
        return self._sent.qsize()

    def stop_reading(self) -> None:
        self._is_reading.clear()

    def go_on_reading(self) -> None:
        self._is_reading.set()

    async def reply_to(self, number: int) -> SessionReply:
        async with self._changed:
            await self._changed.wait_for(lambda: self.find(number) is not None)
        found = self.find(number)
        assert found is not None
        return found

    def find(self, number: int) -> SessionReply | None:
        return next((one for one in self.got if one.correlation_id == number), None)

    @property
    def progress(self) -> list[pb.Progress]:
        return [one.progress for one in self.got if one.HasField("progress")]


class World:
    """A session between a client and stand-ins for the actors."""

    def __init__(self, limits: GatewayLimits, liveness: Liveness) -> None:
        self.l1 = fake_l1()
        self.sessions, self.eviction, self.gateway = (
            fake_sessions(),
            fake_eviction(),
            fake_gateway(),
        )
        self.others: list[Fake] = []  # stand-ins of a kind of world
        self.stream = FakeStream()
        prompts = Prompts(
            RootDigests(namespace()),
            chunk_tokens=CHUNK_TOKENS,
            chunks_max=limits.chunks_max,
            kept_bytes_max=limits.kept_prompt_bytes_max,
        )
        attached = ATTACHED
        to = Neighbours(self.gateway.ref, self.l1.ref, self.sessions.ref, self.eviction.ref)
        self.requests = EngineRequests(
            attached, (0,), prompts, to, limits, epoch=b"e" * 16, loads=self.loads(attached)
        )
        self.session = EngineSession(self.stream, attached, self.requests, limits, liveness)
        self.ended = asyncio.Event()

    def loads(self, _: session.Attached) -> SessionLoads | None:
        """There is nothing below L1, unless a kind of world says otherwise."""
        return None

    async def serve(self) -> None:
        await self.session.run(SessionReply(correlation_id=1, welcome=pb.Welcome()))
        self.ended.set()

    async def ask(self, number: int, **body: object) -> SessionReply:
        self.stream.send(SessionRequest(correlation_id=number, **body))  # type: ignore[arg-type]
        return await self.stream.reply_to(number)


def play(
    seed: int,
    scene: Callable[[World], Awaitable[None]],
    limits: GatewayLimits = LIMITS,
    liveness: Liveness = Liveness.PROCESS,
    kind: type[World] = World,
) -> None:
    async def main() -> None:
        world = kind(limits, liveness)
        fakes = [world.l1, world.sessions, world.eviction, world.gateway, *world.others]
        async with supervise(*(one.spec for one in fakes)), anyio.create_task_group() as tasks:
            tasks.start_soon(world.serve)
            with anyio.fail_after(1000):
                await scene(world)
                world.stream.close()
                await world.ended.wait()

    simulate(seed, main)


def lookup(chunks: int = 2, **fields: object) -> pb.Lookup:
    given: dict[str, object] = {"prompt": pb.Prompt(keys=keys(chunks)), "readers": 1, **fields}
    return pb.Lookup(**given)  # type: ignore[arg-type]


def reserve(chunks: int = 2) -> pb.Reserve:
    return pb.Reserve(prompt=pb.Prompt(keys=keys(chunks)))
