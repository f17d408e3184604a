"""Saving out of L1: what the L1 manager tells and lends the store writer, and what it evicts on its word.

News are level-triggered: the writer is told once that something was committed or hit, and not again until it has
asked for it.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import assert_never

from penstock import _native
from penstock.actors.api import l1, l1_saving, writer
from penstock.actors.api.errors import WriteOver
from penstock.actors.api.types import KEY_BYTES, NODE_SESSION, GeometryId, LeaseId
from penstock.actors.core.quota import Tenants
from penstock.actors.l1_geometries import Geometries
from penstock.runtime.errors import ActorStopped, MailboxFull
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref


class Saving:
    """Belongs to the L1 manager. `hits_max`: chunks of hits remembered until they are taken; 0: nobody wants them."""

    def __init__(
        self,
        table: _native.Table,
        geometries: Geometries,
        tenants: Tenants,
        *,
        store_writer: Ref[writer.StoreWriter] | None,
        hits_max: int,
        evicted: Callable[[_native.Evicted], l1.Room],
    ) -> None:
        self._table = table
        self._geometries = geometries
        self._tenants = tenants
        self._writer = store_writer
        self._hits_max = hits_max
        self._evicted = evicted
        self._hits: deque[l1_saving.HitChunks] = deque()  # of at most hits_max chunks
        self._hit_chunks = 0  # in _hits
        self._is_told = False  # and has not got what it asked for yet
        self._writer_backlog_bytes = 0

    @property
    def backlog_bytes(self) -> int:
        return self._writer_backlog_bytes + self._table.news_bytes

    def receive(self, msg: l1_saving.Message) -> object:
        match msg:
            case l1_saving.TakeCommitted():
                return answer(msg, self._take_committed(msg))
            case l1_saving.TakeHits():
                return answer(msg, self._take_hits(msg.chunks_max))
            case l1_saving.Borrow():
                return answer(msg, self._borrow(msg))
            case l1_saving.BorrowWriting():
                return answer(msg, self._borrow_writing(msg))
            case l1_saving.Victims():
                return answer(msg, self._victims(msg))
            case l1_saving.EvictThese():
                evicted = self._table.evict_these(self._unchanged(msg), now=_now())
                return answer(msg, self._evicted(evicted))
            case l1_saving.LetGo():
                let_go = self._table.let_go(msg.lease, session=NODE_SESSION, now=_now())
                return answer(msg, let_go == _native.Outcome.OK)
            case l1_saving.DropSaved():
                dropped = self._table.drop_objects(msg.objects.keys, msg.objects.slots)
                return answer(msg, dropped)
            case l1_saving.SaveBacklog():
                self._writer_backlog_bytes = msg.backlog_bytes
                self.committed()  # if its mailbox was full when there was something to tell
                return answer(msg, None)
            case l1_saving.TellShape():
                return answer(msg, self._geometries.shape(msg.geometry))
            case l1_saving.FindShapes():
                return answer(msg, self._geometries.shapes_of(msg.namespace))
            case _:
                assert_never(msg)

    # News.

    def committed(self) -> None:
        """Something may have become resident."""
        if self._table.news_waiting:
            self._tell()

    def hit(self, geometry: GeometryId, keys: bytes) -> None:
        """A lookup hit these chunks."""
        chunks = len(keys) // KEY_BYTES
        if not chunks or self._hit_chunks + chunks > self._hits_max:
            return  # of too many hits some are not counted
        self._hits.append(l1_saving.HitChunks(self._geometries.shape(geometry), keys))
        self._hit_chunks += chunks
        self._tell()

    def _tell(self) -> None:
        if self._is_told or self._writer is None:
            return
        try:
            self._writer.tell_nowait(writer.News())
        except (MailboxFull, ActorStopped):
            return  # told at the next commit
        self._is_told = True

    def _take_committed(self, msg: l1_saving.TakeCommitted) -> l1_saving.Taken:
        lease = os.urandom(16)
        taken = self._table.take_committed(
            msg.objects_max,
            msg.bytes_max,
            lease=lease,
            session=NODE_SESSION,
            now=_now(),
            expires=math.inf,
        )
        self._is_told = False  # a take that is refused is made again by whoever was told
        named = None
        if taken.named_slots:
            shape = self._geometries.shape(taken.geometry)
            named = l1_saving.Named(shape, taken.named_keys, taken.named_slots)
        return l1_saving.Taken(
            self._lend(lease, taken),
            named,
            taken.gone,
            self._table.news_lost,
            is_last=not self._table.news_waiting,
        )

    def _take_hits(self, chunks_max: int) -> tuple[l1_saving.HitChunks, ...]:
        """Whole lookups, and one at least."""
        self._is_told = False
        taken: list[l1_saving.HitChunks] = []
        while self._hits and chunks_max > 0:
            taken.append(self._hits.popleft())
            chunks = len(taken[-1].keys) // KEY_BYTES
            self._hit_chunks -= chunks
            chunks_max -= chunks
        return tuple(taken)

    # Lending.

    def _borrow(self, msg: l1_saving.Borrow) -> tuple[l1_saving.Borrowed, ...]:
        lent = self._borrow_keys(msg.keys, msg.geometry, msg.wanted)
        if lent is None:
            return ()
        if len(lent.tenants) == 1:
            return (lent,)
        keys = dict.fromkeys(lent.tenants.values(), b"")
        for key, tenant in dict.fromkeys((one.key, one.tenant) for one in lent):
            keys[tenant] += key
        parts = [self._borrow_keys(own, msg.geometry, _rows_of(own, msg)) for own in keys.values()]
        return tuple(one for one in parts if one is not None)

    def _borrow_keys(
        self, keys: bytes, geometry: GeometryId, wanted: bytes
    ) -> l1_saving.Borrowed | None:
        lease = os.urandom(16)
        borrowed = self._table.borrow(
            keys,
            geometry=geometry,
            lease=lease,
            session=NODE_SESSION,
            now=_now(),
            expires=math.inf,
            wanted=wanted,
        )
        return self._lend(lease, borrowed)

    def _borrow_writing(self, msg: l1_saving.BorrowWriting) -> l1_saving.Borrowed | None:
        lease = os.urandom(16)
        borrowed = self._table.borrow_writing(
            msg.lease,
            msg.writer,
            msg.indices,
            lease=lease,
            session=NODE_SESSION,
            now=_now(),
            expires=math.inf,
        )
        if borrowed.is_over:
            raise WriteOver("the reservation has ended, or is another session's")
        return self._lend(lease, borrowed)

    def _victims(self, msg: l1_saving.Victims) -> l1_saving.Offered:
        lease = os.urandom(16)
        victims = self._table.victims
        if msg.own is not None:
            tenant = self._tenants.find(msg.own)
            if tenant is None:
                return l1_saving.Offered(None, is_over=True)
            victims = partial(self._table.victims_own, tenant)
        borrowed = victims(
            msg.bytes_wanted,
            msg.chunks_max,
            lease=lease,
            session=NODE_SESSION,
            now=_now(),
            expires=math.inf,
        )
        return l1_saving.Offered(self._lend(lease, borrowed), borrowed.is_over)

    def evict(self, msg: l1.Evict) -> l1.Room:
        """By policy; of one tenant's own, those idle longest."""
        evict = self._table.evict
        if msg.own is not None:
            tenant = self._tenants.find(msg.own)
            if tenant is None:
                return l1.Room(0, 0, is_over=True)
            evict = partial(self._table.evict_own, tenant)
        return self._evicted(evict(msg.bytes_wanted, chunks_max=msg.chunks_max, now=_now()))

    def _unchanged(self, msg: l1_saving.EvictThese) -> bytes:
        """The keys of those of these chunks to which nothing was added meanwhile."""
        presence = self._table.presence(msg.keys, geometry=msg.shape.geometry)
        there = presence.translate(_IS_RESIDENT)
        if there == msg.presence:
            return msg.keys
        width = len(msg.shape.slots)
        unchanged = []
        for chunk in range(len(msg.keys) // KEY_BYTES):
            row = slice(chunk * width, (chunk + 1) * width)
            if all(
                may_go >= is_there
                for may_go, is_there in zip(msg.presence[row], there[row], strict=True)
            ):
                unchanged.append(msg.keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES])
        return b"".join(unchanged)

    def _lend(self, lease: bytes, borrowed: _native.Borrowed) -> l1_saving.Borrowed | None:
        if not borrowed.count:
            return None
        numbers = {one[4] for one in l1_saving.BORROWED.iter_unpack(borrowed.objects)}
        return l1_saving.Borrowed(
            self._geometries.shape(borrowed.geometry),
            borrowed.keys,
            borrowed.objects,
            borrowed.runs,
            {number: self._tenants.digest(number) for number in numbers},
            borrowed.bytes,
            LeaseId(lease),
            self._table.lease_handle(lease, session=NODE_SESSION),
        )


def _rows_of(keys: bytes, msg: l1_saving.Borrow) -> bytes:
    """What is wanted of these chunks, which are some of those asked for."""
    if not msg.wanted:
        return b""
    width = len(msg.wanted) * KEY_BYTES // len(msg.keys)
    places = {
        msg.keys[start : start + KEY_BYTES]: start // KEY_BYTES * width
        for start in range(0, len(msg.keys), KEY_BYTES)
    }
    starts = [places[keys[at : at + KEY_BYTES]] for at in range(0, len(keys), KEY_BYTES)]
    return b"".join([msg.wanted[start : start + width] for start in starts])


_IS_RESIDENT = bytes(one == _native.Presence.RESIDENT for one in range(256))


def _now() -> float:
    return asyncio.get_running_loop().time()
