"""A prefill engine of a simulated world that writes its objects layer by layer, and says so."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import anyio
from support.fake_store import payload
from support.pd_world import SESSION, Node

from penstock import _native
from penstock.actors.api import l1, pd
from penstock.actors.api.types import LeaseId, SessionId
from penstock.actors.object_keys import object_keys

_EXTENT = struct.Struct("<QQQ")


@dataclass
class Writing:
    """One reservation, all of which was granted."""

    node: Node
    lease: LeaseId
    held: list[bytes]  # what each object is to be
    places: list[tuple[int, int]]  # offset and size of each
    runs: int  # of each object

    @staticmethod
    async def begin(
        node: Node, prompt: bytes, chunks: range, *, salt: bytes = b"", lease_s: float = 60.0
    ) -> Writing:
        """`salt`: of bytes that are not those of the prompt."""
        slots = tuple(range(len(node.shape.slots)))
        part = prompt[chunks.start * 32 : chunks.stop * 32]
        parent = prompt[max(0, chunks.start - 1) * 32 : chunks.start * 32]
        reserve = l1.Reserve(part, parent, node.shape.geometry, slots, b"", SESSION, lease_s)
        lease = await node.l1.ask(reserve, within=1)
        assert set(lease.answers) == {0}
        names = object_keys(node.shape, part, slots)
        places = [(offset, size) for offset, size, _ in _EXTENT.iter_unpack(lease.extents.packed)]
        held = [payload(name + salt, size) for name, (_, size) in zip(names, places, strict=True)]
        return Writing(node, lease.lease, held, places, node.shape.slots[0].runs)

    def write(self, run: int) -> None:
        """One run of every object."""
        for held, (offset, size) in zip(self.held, self.places, strict=True):
            own = self._own(held, run)
            start = offset + run * (size // self.runs)
            self.node.memory.view(start, len(own))[:] = own

    def _own(self, held: bytes, run: int) -> bytes:
        size = len(held) // self.runs
        return held[run * size : (run + 1) * size]

    def _digests(self, runs: range) -> bytes:
        own = (self._own(held, run) for held in self.held for run in runs)
        return b"".join(_native.crc64(one).to_bytes(8, "little") for one in own)

    async def say(
        self,
        transfer: pd.TransferId,
        runs: range,
        *,
        digests: bytes | None = None,
        session: SessionId = SESSION,
        lease: LeaseId | None = None,
    ) -> int:
        """These runs of all objects are whole."""
        layers = pd.Layers(
            transfer,
            session,
            self.lease if lease is None else lease,
            tuple(range(len(self.held))),
            runs.start,
            self._digests(runs) if digests is None else digests,
        )
        return await self.node.sender.ask(layers, within=2)

    async def commit(self, *, has_runs: bool = True) -> bytes:
        digests = b"".join(_native.crc64(held).to_bytes(8, "little") for held in self.held)
        runs = self._digests(range(self.runs)) if has_runs else b""
        done = l1.Commit(self.lease, SESSION, (), digests, runs)
        return (await self.node.l1.ask(done, within=1)).outcomes

    async def layer_by_layer(
        self, transfer: pd.TransferId, *, every_s: float = 0.05, runs: int | None = None
    ) -> None:
        """As a prefill does, up to so many runs."""
        for run in range(self.runs if runs is None else runs):
            self.write(run)
            await self.say(transfer, range(run, run + 1))
            await anyio.sleep(every_s)

    async def abort(self) -> None:
        await self.node.l1.ask(l1.Abort(self.lease, SESSION), within=1)
