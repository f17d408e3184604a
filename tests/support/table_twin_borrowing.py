"""What the node itself reads, in the dumb twin."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from support.table_twin import TableTwin
from support.table_twin_state import Refused, TwinChunk, TwinLease, TwinObject, TwinStep

from penstock._native import Outcome

OWN_SESSION = 0


class BorrowingTwin(TableTwin):
    """A twin that keeps news of commits."""

    def __init__(
        self,
        *,
        pages: int,
        objects_max: int,
        quarantine_pages: int,
        lru: bool,
        news_max: int,
        pd_pages: int = 0,
        pd_objects_max: int = 0,
    ) -> None:
        super().__init__(
            pages=pages,
            objects_max=objects_max,
            quarantine_pages=quarantine_pages,
            lru=lru,
            pd_pages=pd_pages,
            pd_objects_max=pd_objects_max,
        )
        self.news_max = news_max
        self.news: list[tuple[bytes, int]] = []
        self.news_lost = 0

    def settle_write(
        self, lease: TwinLease, index: int, digest: int, stamp: int, *, load: bool
    ) -> Outcome:
        one = lease.objects[index]
        outcome = super().settle_write(lease, index, digest, stamp, load=load)
        if outcome is Outcome.OK and not load and lease.session != OWN_SESSION and one:
            self.news.append((one.chunk.key, one.slot))
            self.news_lost += len(self.news) > self.news_max
            self.news = self.news[-self.news_max :]
        return outcome

    def borrow(self, lease_id: bytes, keys: Sequence[bytes], geometry: int) -> list[TwinObject]:
        self.require_room(OWN_SESSION)
        chunks = [chunk for chunk in self.readable(keys, geometry) if chunk]
        return self.hold([sorted_resident(chunk) for chunk in chunks], lease_id)

    def borrow_writing(
        self, lease_id: bytes, writing: bytes, writer: int, indices: Sequence[int]
    ) -> list[TwinObject] | None:
        """None: the reservation is over."""
        self.require_room(OWN_SESSION)
        lease = self.lease_of(writing, writer, writes=True)
        if lease is None or lease.overdue:
            return None
        rows: dict[int, list[TwinObject]] = {}
        for index in indices:
            one = lease.objects[index] if index < len(lease.objects) else None
            if one is None or one.state != "reserved":
                raise Refused("BadArgument")
            rows.setdefault(index // lease.width, []).append(one)
        return self.hold([*rows.values()], lease_id)

    def take(
        self, lease_id: bytes, objects_max: int, pages_max: int
    ) -> tuple[list[TwinObject], list[tuple[bytes, int]], int]:
        """Held, named, gone."""
        self.require_room(OWN_SESSION)
        held: list[TwinObject] = []
        named: list[tuple[bytes, int]] = []
        gone = 0
        of_one: tuple[int, int] | None = None  # geometry and tenant
        while self.news and len(held) + len(named) + gone < objects_max:
            key, slot = self.news[0]
            chunk = self.chunks.get(key)
            one = chunk.objects.get(slot) if chunk else None
            if chunk is None or one is None or one.state != "resident":
                gone += 1
            elif of_one not in (None, (chunk.geometry, chunk.tenant)):
                break
            else:
                of_one = chunk.geometry, chunk.tenant
                if len(held) < pages_max:
                    held.append(one)
                else:
                    named.append((key, slot))
            del self.news[0]
        return self.hold(rows_of(held), lease_id), named, gone

    def hold(self, rows: Sequence[Sequence[TwinObject]], lease_id: bytes) -> list[TwinObject]:
        """A read lease of them, a row for each pin of a chunk."""
        held = [one for row in rows for one in row]
        if held:
            width = max(len(row) for row in rows)
            padded = [one for row in rows for one in [*row, *[None] * (width - len(row))]]
            self.leases[lease_id] = TwinLease(OWN_SESSION, False, inf, width, padded)
        for row in rows:
            if row:
                row[0].chunk.pins += 1
        for one in held:
            one.readers += 1
        return held

    def evict_these(self, keys: Sequence[bytes]) -> list[bytes]:
        evicted = []
        for key in keys:
            chunk = self.chunks.get(key)
            if chunk and chunk.is_candidate():
                self.take_out(chunk)
                evicted.append(key)
        return evicted

    def hold_victims(
        self, lease_id: bytes, pages_wanted: int, keys: Sequence[bytes]
    ) -> list[TwinObject]:
        """Hold what the native table chose, if it may be chosen; nothing is evicted."""
        self.tick()
        chosen: list[TwinChunk] = []
        pages = 0
        for key in keys:
            assert pages < pages_wanted, "chose more than was wanted"
            candidates = [one for one in self.chunks.values() if could_follow(one, chosen)]
            chunk = self.chunks[key]
            assert chunk in candidates, "chose what is held, or has children that stay"
            assert not chosen or chunk.geometry == chosen[0].geometry
            if self.lru:
                assert chunk.stamp == min(one.stamp for one in candidates), "chose out of turn"
            chosen.append(chunk)
            pages += len(chunk.resident())
        return self.hold([sorted_resident(chunk) for chunk in chosen], lease_id)

    def let_go(self, lease_id: bytes) -> Outcome:
        lease = self.lease_of(lease_id, OWN_SESSION, writes=False)
        if lease is None or lease.overdue:
            return Outcome.STALE
        self.make_overdue(lease_id, TwinStep())
        return Outcome.OK

    def drop_objects(self, named: Sequence[tuple[bytes, int]]) -> int:
        dropped = 0
        for key, slot in named:
            chunk = self.chunks.get(key)
            one = chunk.objects.get(slot) if chunk else None
            if chunk and one and one.state == "resident":
                self.leave(one)
                self.settle(chunk)
                dropped += 1
        return dropped


def sorted_resident(chunk: TwinChunk) -> list[TwinObject]:
    return sorted(chunk.resident(), key=lambda one: one.slot)


def rows_of(objects: Sequence[TwinObject]) -> list[list[TwinObject]]:
    """Neighbours of one chunk with ascending slots share a row."""
    rows: list[list[TwinObject]] = []
    for one in objects:
        if rows and rows[-1][-1].chunk is one.chunk and rows[-1][-1].slot < one.slot:
            rows[-1].append(one)
        else:
            rows.append([one])
    return rows


def could_follow(chunk: TwinChunk, chosen: Sequence[TwinChunk]) -> bool:
    """Whether it would be a candidate, were the chosen ones gone."""
    in_flight = any(one.state in ("reserved", "loaded") for one in chunk.objects.values())
    children = chunk.children - sum(one.parent is chunk for one in chosen)
    free = not (chunk.pins or children or in_flight)
    return chunk not in chosen and free and bool(chunk.resident())
