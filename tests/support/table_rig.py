"""A native table with one group of one shard, and calls as short as what a test wants to say."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count

from penstock._native import (
    Acquired,
    Answer,
    Group,
    Outcome,
    Policy,
    Reserved,
    Rule,
    Table,
    TicketUnknown,
)

PAGE_BYTES = 4096
NEVER = float("inf")


def prompt(name: str, chunks: int) -> list[bytes]:
    """The keys of a prompt's chunks."""
    return [sha256(f"{name}/{i}".encode()).digest() for i in range(chunks)]


@dataclass(frozen=True)
class Extent:
    offset: int
    bytes: int
    digest: int


def extents(packed: bytes) -> list[Extent]:
    words = array("Q", packed)
    return [Extent(*words[i : i + 3]) for i in range(0, len(words), 3)]


class TableRig:
    """Sessions 1, 2 and 3 are attached; 1 and 2 are of instance 1, 3 is of instance 2."""

    def __init__(
        self,
        *,
        pages: int = 64,
        object_bytes: int = PAGE_BYTES,
        groups: Sequence[Group] = (),
        policy: Policy = Policy.LRU,
        quarantine_pages: int = 1024,
        objects_max: int = 1024,
        leases_max: int = 64,
        tickets_max: int = 64,
        news_max: int = 0,
        fair_share: bool = False,
    ) -> None:
        self.table = Table(
            arena_bytes=pages * PAGE_BYTES,
            objects_max=objects_max,
            policy=policy,
            quarantine_bytes_max=quarantine_pages * PAGE_BYTES,
            leases_max=leases_max,
            tickets_max=tickets_max,
            story_events_max=1024,
            news_max=news_max,
            fair_share=fair_share,
        )
        one = [Group(rule=Rule.FULL, shard_bytes=[object_bytes])]
        self.geometry = self.table.add_geometry(groups or one)
        self.slots = range(sum(1 for _ in groups)) if groups else range(1)
        self.now = 0.0
        self._ids = count(1)
        for session, instance in ((1, 1), (2, 1), (3, 2)):
            self.table.attach(session, instance=instance)

    def new_id(self) -> bytes:
        return next(self._ids).to_bytes(16, "big")

    def reserve(
        self,
        keys: Sequence[bytes],
        *,
        session: int = 1,
        tenant: int = 0,
        slots: Sequence[int] | None = None,
        parent: bytes = b"",
        expires: float = NEVER,
    ) -> tuple[bytes, Reserved]:
        lease = self.new_id()
        reserved = self.table.reserve(
            b"".join(keys),
            parent=parent,
            geometry=self.geometry,
            slots=list(self.slots) if slots is None else slots,
            tenant=tenant,
            lease=lease,
            session=session,
            now=self.now,
            expires=expires,
        )
        return lease, reserved

    def answers(self, keys: Sequence[bytes], **options: int) -> list[Answer]:
        """What a reservation would be answered, given up again at once."""
        lease, reserved = self.reserve(keys, **options)  # type: ignore[arg-type]
        self.table.abort(lease, session=options.get("session", 1))
        return [Answer(answer) for answer in reserved.answers]

    def commit(
        self,
        lease: bytes,
        digests: Sequence[int],
        *,
        session: int = 1,
        indices: Sequence[int] = (),
    ) -> list[Outcome]:
        outcomes = self.table.commit(
            lease,
            session=session,
            indices=indices,
            digests=array("Q", digests).tobytes(),
            now=self.now,
        )
        return [Outcome(outcome) for outcome in outcomes]

    def put(
        self,
        keys: Sequence[bytes],
        *,
        session: int = 1,
        tenant: int = 0,
        slots: Sequence[int] | None = None,
        parent: bytes = b"",
    ) -> list[Extent]:
        """Reserve and commit; every object's digest is 1 and up."""
        lease, reserved = self.reserve(
            keys, session=session, tenant=tenant, slots=slots, parent=parent
        )
        granted = reserved.answers.count(Answer.GRANTED)
        self.commit(lease, range(1, granted + 1), session=session)
        return extents(reserved.extents)

    def hit(self, keys: Sequence[bytes]) -> int:
        return self.table.peek(b"".join(keys), geometry=self.geometry)

    def lookup(
        self,
        keys: Sequence[bytes],
        *,
        instance: int = 1,
        readers: int = 1,
        expires: float = NEVER,
    ) -> tuple[bytes, int]:
        ticket = self.new_id()
        found = self.table.lookup(
            b"".join(keys),
            geometry=self.geometry,
            ticket=ticket,
            instance=instance,
            readers=readers,
            now=self.now,
            expires=expires,
        )
        return ticket, found.hit

    def acquire(
        self,
        ticket: bytes,
        *,
        rank: int = 0,
        session: int = 1,
        slots: Sequence[int] | None = None,
        first_chunk: int = 0,
        expires: float = NEVER,
    ) -> Acquired:
        return self.table.acquire(
            ticket,
            rank=rank,
            slots=list(self.slots) if slots is None else slots,
            first_chunk=first_chunk,
            lease=self.new_id(),
            session=session,
            now=self.now,
            expires=expires,
        )

    def read(self, keys: Sequence[bytes], *, expires: float = NEVER, session: int = 1) -> Acquired:
        """Lookup, acquire by that session, close the ticket: only the lease holds."""
        instance = 2 if session == 3 else 1
        ticket, _ = self.lookup(keys, instance=instance)
        acquired = self.acquire(ticket, session=session, expires=expires)
        self.table.close_ticket(ticket, instance=instance)
        return acquired

    def release(self, lease: bytes, *, session: int = 1, damaged: Sequence[int] = ()) -> Outcome:
        return self.table.release(lease, session=session, damaged=damaged, now=self.now)

    def evict_all(self) -> int:
        """Pages that this made free."""
        return self.table.evict(1 << 62, now=self.now).bytes // PAGE_BYTES

    def pages_free(self) -> int:
        return self.table.free_bytes // PAGE_BYTES

    def pages_quarantined(self) -> int:
        return self.table.statistics().bytes_quarantined // PAGE_BYTES

    def knows(self, ticket: bytes) -> bool:
        """Whether the ticket lives: a rank beyond its readers is refused for another reason."""
        try:
            self.acquire(ticket, rank=1 << 20)
        except TicketUnknown:
            return False
        except ValueError:
            return True
        raise AssertionError("rank 2^20 was acquired")
