"""Reads of peers from this node's L1: the listener's side of `Peer.Read`.

    asked -> checked -> its turn -> borrowed -> sent, straight from the arena -> told, with the headers
                           |            |          '-- given up, out of time, link lost: let go
                           '------------'--> nothing is held

What is read is borrowed under leases of the node itself, for no longer than the read: until the channel reads it no
more. A peer that is slow holds what it may hold at a time, until its time is over; then L1 may evict it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_saving
from penstock.actors.api.errors import InvalidField
from penstock.actors.api.peers import PeerBusy, ReadAsk, ReadTold, ReadTooLarge, ServedLink
from penstock.actors.api.store import Source
from penstock.actors.api.types import KEY_BYTES, Memory, Shape, TicketId
from penstock.actors.core.namespace import DIGEST_BYTES
from penstock.actors.keys import object_key
from penstock.actors.load_targets import whole_pages
from penstock.actors.peer_metrics import ServedMetrics
from penstock.actors.peer_proofs import PeerProofs
from penstock.actors.room import Room
from penstock.actors.stores.digests import Digester
from penstock.actors.stores.header import DIGEST_BYTES as RUN_BYTES
from penstock.actors.stores.header import header_bytes
from penstock.actors.stores.new_headers import make_headers
from penstock.actors.stores.peer_reading import OBJECT, SENT, header_length
from penstock.runtime.channel import Piece
from penstock.runtime.deadline import deadline_within, time_left
from penstock.runtime.errors import DeadlineExceeded, PenstockError, forget_frames
from penstock.runtime.hazard import hazard
from penstock.runtime.ref import Ref

STEP_OBJECTS = 256  # looked at in one step of the loop: about a millisecond


@dataclass(frozen=True, slots=True)
class ReadLimits:
    peer_max: int  # reads of one peer at a time
    objects_max: int  # of one read
    peer_bytes_max: int  # of the arena, held by the reads of one peer
    bytes_max: int  # by those of all
    within_s: float
    ask_s: float


class _Wants(NamedTuple):
    """What is asked for, taken apart."""

    keys: list[bytes]  # of its chunks
    objects: list[tuple[int, int]]  # chunk by position, and slot


@dataclass(slots=True)
class _Peer:
    """What one peer has under way."""

    reads: int = 0
    held_bytes: int = 0


@dataclass(slots=True)
class _Lent:
    """All that one read sends."""

    batches: list[l1_saving.Borrowed] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)  # parallel


class PeerReads:
    """Of all peers of one node. Belongs to the loop."""

    def __init__(
        self,
        manager: Ref[l1.L1Manager],
        memory: Memory,
        limits: ReadLimits,
        metrics: ServedMetrics,
        digester: Digester,
    ) -> None:
        self._l1 = manager
        self._memory = memory
        self._limits = limits
        self._metrics = metrics
        self._proofs = PeerProofs(manager, memory, digester, metrics, ask_s=limits.ask_s)
        self._room = Room(limits.bytes_max)  # shared out between the peers, one read each in turn
        self._peers: dict[str, _Peer] = {}  # those that have any under way

    @property
    def under_way(self) -> int:
        return sum(one.reads for one in self._peers.values())

    @property
    def held_bytes(self) -> int:
        """Of the arena, by reads under way."""
        return self._room.taken_bytes

    async def serve(self, link: ServedLink, ask: ReadAsk) -> ReadTold:
        """Given up, or its link lost, it sends nothing more, and holds nothing but what the channel still reads.

        Raises InvalidField, ReadTooLarge, PeerBusy, PeerAway, DeadlineExceeded, and what L1 refuses."""
        wants = _taken_apart(ask, self._limits.objects_max)
        within_s = time_left(at_most=self._limits.within_s)
        with (
            self._place(link.node_id) as peer,
            deadline_within(within_s),
            anyio.move_on_after(within_s),
        ):
            try:
                told = await self._serve(link, ask, wants, peer)
            except (PenstockError, asyncio.CancelledError) as given_up:
                forget_frames(given_up)  # they would hold what was lent
                raise
            self._metrics.served(link.node_id, told.outcomes)
            return told
        raise DeadlineExceeded(f"a read by {link.node_id} was not over within {within_s:g} s")

    @contextmanager
    def _place(self, node_id: str) -> Iterator[_Peer]:
        """Raises PeerBusy."""
        peer = self._peers.setdefault(node_id, _Peer())
        if peer.reads >= self._limits.peer_max:
            raise PeerBusy(f"{peer.reads} reads are under way, the bound is cluster.reads.peer_max")
        peer.reads += 1
        try:
            yield peer
        finally:
            peer.reads -= 1
            if not peer.reads:
                del self._peers[node_id]

    async def _serve(self, link: ServedLink, ask: ReadAsk, wants: _Wants, peer: _Peer) -> ReadTold:
        shapes = await self._l1.ask(l1_saving.FindShapes(ask.namespace), within=self._limits.ask_s)
        if ask.doubted:
            await self._proofs.look(link.node_id, shapes, ask.doubted)
        size = max((_arena_bytes(shape, wants) for shape in shapes), default=0)
        if not size:
            return ReadTold(bytes(len(wants.objects)), ())
        bound = self._limits.peer_bytes_max
        if size > bound:
            raise ReadTooLarge(f"a read of {size} bytes, cluster.reads.peer_bytes_max is {bound}")
        if peer.held_bytes + size > bound:
            raise PeerBusy(f"{peer.held_bytes} bytes are read already, and {bound} are the bound")
        peer.held_bytes += size
        try:
            await self._room.take(size, TicketId(link.node_id.encode()))
            try:
                return await self._send(link, ask, wants, shapes)
            finally:
                self._room.give_back(size)
        finally:
            peer.held_bytes -= size

    async def _send(
        self, link: ServedLink, ask: ReadAsk, wants: _Wants, shapes: Sequence[Shape]
    ) -> ReadTold:
        outcomes = bytearray(len(wants.objects))
        lent = _Lent()
        is_over = False
        try:
            for shape in shapes:
                await self._borrow(ask, wants, shape, lent)
            if not lent.pieces:
                return ReadTold(bytes(outcomes), ())
            order = sorted(range(len(lent.pieces)), key=lambda at: lent.pieces[at].number)
            headers = await _headers([lent.sources[at] for at in order])
            connection = await link.connection(within=time_left(at_most=self._limits.ask_s))
            await hazard("peer_reads.before_send")
            await connection.send(ask.grant, lent.pieces)
            is_over = True
        finally:
            if not is_over:
                self._let_go(lent.batches)
        for piece in lent.pieces:
            outcomes[piece.number] = SENT
        self._metrics.sent(link.node_id, sum([len(piece.payload) for piece in lent.pieces]))
        return ReadTold(bytes(outcomes), headers)

    async def _borrow(self, ask: ReadAsk, wants: _Wants, shape: Shape, lent: _Lent) -> None:
        """What is resident of it, each tenant's under a lease of its own. A remote hit is a use, as any hit."""
        width = len(shape.slots)
        wanted = bytearray(len(wants.keys) * width)
        places: dict[tuple[bytes, int], int] = {}
        for number, (chunk, slot) in enumerate(wants.objects):
            if slot < width:
                wanted[chunk * width + slot] = 1
                places[wants.keys[chunk], slot] = number
        borrow = l1_saving.Borrow(ask.chunk_keys, shape.geometry, bytes(wanted))
        batches = await self._l1.ask(borrow, within=self._limits.ask_s)
        lent.batches.extend(batches)
        await self._l1.ask(l1.Touch(ask.chunk_keys), within=self._limits.ask_s)
        seen = 0
        for batch in batches:
            for one in batch:
                self._lend(batch, one, places[one.key, one.slot], lent)
                seen += 1
                if not seen % STEP_OBJECTS:
                    await checkpoint()

    def _lend(
        self,
        batch: l1_saving.Borrowed,
        one: l1_saving.BorrowedObject,
        number: int,
        lent: _Lent,
    ) -> None:
        """No byte beyond the object's own: what follows it in its last page may have been another's."""
        kind = batch.shape.slots[one.slot]
        payload = self._memory.view(one.offset, whole_pages(one.logical_bytes))
        payload = payload[: one.logical_bytes]
        lent.pieces.append(Piece(number, number, 0, payload, batch.hold))
        lent.sources.append(
            Source(
                key=object_key(one.key, group=kind.group, shard=kind.shard),
                device=kind.shard,
                namespace=batch.shape.namespace,
                logical_bytes=one.logical_bytes,
                digest=one.digest,
                run_digests=one.run_digests,
                tenant=one.tenant,
                payload=payload,
                hold=batch.hold,
            )
        )

    def _let_go(self, batches: Sequence[l1_saving.Borrowed]) -> None:
        """The channel may still read some of it: that keeps its memory, and L1 from nothing else. No wait: it is told
        while a read is given up, and what is not heard ends with the hold all the same."""
        for batch in batches:
            with suppress(PenstockError):
                self._l1.ask_now(l1_saving.LetGo(batch.lease))


def _taken_apart(ask: ReadAsk, objects_max: int) -> _Wants:
    """Raises InvalidField, ReadTooLarge."""
    if len(ask.namespace) != DIGEST_BYTES:
        raise InvalidField("namespace_digest", f"a digest has {DIGEST_BYTES} bytes")
    if len(ask.objects) % OBJECT.size:
        raise InvalidField("objects", f"a record has {OBJECT.size} bytes")
    if len(ask.chunk_keys) % KEY_BYTES:
        raise InvalidField("chunk_keys", f"a key has {KEY_BYTES} bytes")
    count, chunks = len(ask.objects) // OBJECT.size, len(ask.chunk_keys) // KEY_BYTES
    if count > objects_max:
        raise ReadTooLarge(f"{count} objects in one read, the bound is {objects_max}")
    if chunks > count:
        raise InvalidField("chunk_keys", "a chunk of which no object is wanted")
    starts = range(0, len(ask.chunk_keys), KEY_BYTES)
    keys = [ask.chunk_keys[start : start + KEY_BYTES] for start in starts]
    objects = [*OBJECT.iter_unpack(ask.objects)]
    if len(set(keys)) < chunks or len(set(objects)) < count:
        raise InvalidField("objects", "one is named twice")
    if max([chunk for chunk, _ in objects], default=-1) >= chunks:
        raise InvalidField("objects", "one is of a chunk that is not named")
    return _Wants(keys, objects)


def _arena_bytes(shape: Shape, wants: _Wants) -> int:
    sizes = [whole_pages(slot.bytes) for slot in shape.slots]
    return sum([sizes[slot] for _, slot in wants.objects if slot < len(sizes)])


async def _headers(sources: Sequence[Source]) -> list[bytes]:
    """Without the zeros at their end."""
    runs = [len(one.run_digests) // RUN_BYTES for one in sources]
    whole = await make_headers(sources, [header_bytes(count) for count in runs])
    return [
        bytes(header[: header_length(count)]) for header, count in zip(whole, runs, strict=True)
    ]
