"""Some nodes' L1 managers and directories, and a network between them that loses, doubles, delays and cuts."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
from support.declarations import OBJECT_BYTES, declaration
from support.fake_actors import fake_eviction

from penstock import _native
from penstock.actors.api import directory, l1
from penstock.actors.api.directory import Heard
from penstock.actors.api.types import GeometryId, InstanceId, SessionId
from penstock.actors.core.quota import Tenants
from penstock.actors.core.watches import Watches
from penstock.actors.directory import Directory
from penstock.actors.directory_config import DirectoryConfig
from penstock.actors.l1_manager import L1Manager
from penstock.runtime.errors import MailboxFull, PenstockError
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec, Supervisor
from penstock.runtime.telemetry import Telemetry

PAGES = 512
KEY_BYTES = 32


def chunk(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class Node:
    """One life of a node. `bytes` of it are what it has, to a test."""

    def __init__(self, name: str, life: int, config: DirectoryConfig, changes_max: int) -> None:
        self.name = name
        self.epoch = life.to_bytes(16, "little")
        self.telemetry = Telemetry()
        self.eviction = fake_eviction()
        label = f"{name}{life}"
        self.l1: Ref[l1.L1Manager] = Ref.to(l1.L1Manager, f"l1 {label}", messages_max=64)
        self.directory: Ref[directory.Directory] = Ref.to(
            directory.Directory, f"directory {label}", messages_max=256
        )
        self.config = config
        self.table = _native.Table(
            arena_bytes=PAGES * OBJECT_BYTES,
            objects_max=1024,
            policy=_native.Policy.LRU,
            quarantine_bytes_max=PAGES * OBJECT_BYTES,
            changes_max=changes_max,
        )
        self.actors: list[Directory] = []  # all lives

    def specs(self) -> Sequence[ChildSpec]:
        return (
            ChildSpec(self.l1, self._make_l1, restarts_max=0),
            ChildSpec(self.directory, self._make_directory, restarts_max=1000, drain_s=0.1),
        )

    def _make_l1(self) -> L1Manager:
        return L1Manager(
            self.table,
            arena_bytes=PAGES * OBJECT_BYTES,
            high_water_bytes=PAGES * OBJECT_BYTES,
            watches=Watches(watches_max=2, chunks_max=64),
            tenants=Tenants(
                tenants_max=4, default_bytes_max=0, bytes_max={}, bytes_of=self.table.bytes_of
            ),
            telemetry=self.telemetry,
            eviction_controller=self.eviction.ref,
            told=self.directory,
        )

    def _make_directory(self) -> Directory:
        self.actors.append(Directory(self.config, manager=self.l1, telemetry=self.telemetry))
        return self.actors[-1]

    async def begin(self) -> None:
        await self.l1.ask(l1.AddGeometry(declaration().groups, b"n" * 32), within=1)
        await self.l1.ask(l1.Attach(SessionId(1), InstanceId(1)), within=1)

    async def put(self, keys: Sequence[bytes]) -> None:
        want = l1.Reserve(b"".join(keys), b"", GeometryId(0), (0,), b"", SessionId(1), 1e6)
        lease = await self.l1.ask(want, within=1)
        if granted := lease.answers.count(0):
            done = l1.Commit(lease.lease, SessionId(1), (), bytes(8 * granted), b"")
            await self.l1.ask(done, within=1)

    async def evict(self, chunks: int) -> None:
        await self.l1.ask(l1.Evict(chunks * OBJECT_BYTES, chunks), within=1)

    def has(self, key: bytes) -> bool:
        return self.table.peek(key, geometry=0) == 1

    async def promised(self, key: bytes) -> set[str]:
        return {one.node_id for one in await self.directory.ask(directory.Promised(key), within=1)}

    async def measure(self) -> directory.DirectoryMeasure:
        for one in self.actors[-1:]:
            one.validate()
        self.table.validate()
        return await self.directory.ask(directory.Measure(), within=1)


@dataclass
class Weather:
    """Of the ways between nodes: chances for each update."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0  # overtaken by the next one
    cut: float = 0.0  # the link ends


class World:
    """Every node watches every other one, and begins anew when it is told to, or when the way is cut."""

    def __init__(
        self,
        names: str,
        *,
        config: DirectoryConfig | None = None,
        changes_max: int = 1 << 16,
    ) -> None:
        self.config = config or DirectoryConfig(batch_chunks=16)
        self.changes_max = changes_max
        self.weather = Weather()
        self.severed: set[str] = set()  # nodes that nobody reaches
        self.nodes: dict[str, Node] = {}
        self.names = names
        self.lives = 0
        self.updates = 0
        self.asked_anew = 0

    async def start(self, supervisor: Supervisor, name: str) -> Node:
        self.lives += 1
        node = Node(name, self.lives, self.config, self.changes_max)
        for spec in node.specs():
            await supervisor.start(spec)
        await node.begin()
        self.nodes[name] = node
        return node

    async def restart(self, supervisor: Supervisor, name: str) -> Node:
        """The node loses all it had."""
        old = self.nodes[name]
        await supervisor.stop(old.directory.name)
        await supervisor.stop(old.l1.name)
        return await self.start(supervisor, name)

    async def run_links(self) -> None:
        async with anyio.create_task_group() as group:
            for watcher in self.names:
                for source in self.names:
                    if watcher != source:
                        group.start_soon(self._link, watcher, source, name=f"{watcher}<{source}")

    async def _link(self, watcher: str, source: str) -> None:
        pause_s = 0.05
        while source not in self.severed:
            began = asyncio.get_running_loop().time()
            with suppress(PenstockError):
                await self._watch(self.nodes[watcher], self.nodes[source])
            self.asked_anew += 1
            lasted_s = asyncio.get_running_loop().time() - began
            pause_s = 0.05 if lasted_s > 1.0 else min(2 * pause_s, 1.0)
            await anyio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _watch(self, watcher: Node, source: Node) -> None:
        """Until it is over, one way or the other."""
        watch = await source.directory.ask(directory.Watch(watcher.name), within=1)
        late: list[bytes] = []
        try:
            while True:
                update = await source.directory.ask(directory.NextUpdate(watch, 0.5), within=2)
                if source.name in self.severed or random.random() < self.weather.cut:
                    return
                if random.random() < self.weather.late:
                    late.append(update)
                    continue
                for one in [*self._fate(update), *late]:
                    self.updates += 1
                    told = directory.PeerUpdate(source.name, source.epoch, one)
                    if one and await watcher.directory.ask(told, within=1) is not Heard.KEPT:
                        return
                late.clear()
        finally:
            with suppress(PenstockError, MailboxFull):
                source.directory.tell_nowait(directory.Unwatch(watch))

    def _fate(self, update: bytes) -> list[bytes]:
        if random.random() < self.weather.lost:
            return []
        return [update] * (2 if random.random() < self.weather.doubled else 1)

    async def wrong(self, keys: Sequence[bytes]) -> tuple[int, int]:
        """(yes said of what is not there, no said of what is), over all pairs and keys."""
        yes = no = 0
        for name, node in self.nodes.items():
            for key in keys:
                said = await node.promised(key)
                have = {one.name for one in self.nodes.values() if one.has(key)} - {name}
                yes += len(said - have)
                no += len(have - said)
        return yes, no
