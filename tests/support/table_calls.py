"""Calls of readers and writers, in any order, to the native table and to its twin alike."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import count
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.table_twin_borrowing import BorrowingTwin
from support.table_twin_state import PAGE_BYTES, Refused, TwinGroup

from penstock._native import Answer, Group, Policy, Pool, Rule, Table, TableError

PAGES = 24
PD_PAGES = 5
OBJECTS_MAX = 30
PD_OBJECTS_MAX = 4
QUARANTINE_PAGES = 6
NEWS_MAX = 6
CHANGES_MAX = 5  # so few that they are lost at times
OWN_SESSION, OWN_INSTANCE = 0, 9
LENGTH_MAX = 6
GEOMETRIES = (
    (TwinGroup(Rule.FULL, 1),),
    (TwinGroup(Rule.FULL, 2), TwinGroup(Rule.WINDOW, 1, window=2)),
    (TwinGroup(Rule.STATE, 1), TwinGroup(Rule.WINDOW, 1, window=3)),
)
R = TypeVar("R")

prompts = st.text("ab", min_size=1, max_size=LENGTH_MAX)
sessions = st.integers(1, 3)
lives = st.integers(1, 20)
picks = st.integers(0, 1 << 16)


def instance_of(session: int) -> int:
    return 1 + session % 2


def key(geometry: int, prompt: str) -> bytes:
    return sha256(f"{geometry}/{prompt}".encode()).digest()


def chain(geometry: int, prompt: str) -> list[bytes]:
    return [key(geometry, prompt[: i + 1]) for i in range(len(prompt))]


def check_extents(extents: bytes, answers: Sequence[Answer], pool: Pool) -> None:
    """What was granted has a place, in its own part of the arena, and nothing else has."""
    words = array("Q", extents)
    offsets, lengths = words[0::3], words[1::3]
    assert [length > 0 for length in lengths] == [one == Answer.GRANTED for one in answers]
    for offset, length in zip(offsets, lengths, strict=True):
        assert not length or (offset >= PAGES * PAGE_BYTES) == (pool is Pool.PD)


class TableCalls(RuleBasedStateMachine):
    """A native table and its twin, and the calls of readers and writers."""

    policy = Policy.LRU

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(
            arena_bytes=PAGES * PAGE_BYTES,
            pd_bytes=PD_PAGES * PAGE_BYTES,
            objects_max=OBJECTS_MAX,
            pd_objects_max=PD_OBJECTS_MAX,
            policy=self.policy,
            quarantine_bytes_max=QUARANTINE_PAGES * PAGE_BYTES,
            story_events_max=256,
            news_max=NEWS_MAX,
            changes_max=CHANGES_MAX,
        )
        self.twin = BorrowingTwin(
            pages=PAGES,
            pd_pages=PD_PAGES,
            objects_max=OBJECTS_MAX,
            pd_objects_max=PD_OBJECTS_MAX,
            quarantine_pages=QUARANTINE_PAGES,
            lru=self.policy is Policy.LRU,
            news_max=NEWS_MAX,
        )
        self.now = 0
        self.numbers = count(1)
        self.leases: list[bytes] = []  # ids of all that ever were
        self.tickets: list[bytes] = []

    @initialize()
    def begin(self) -> None:
        for groups in GEOMETRIES:
            native = [
                Group(
                    rule=group.rule,
                    shard_bytes=[PAGE_BYTES - 8 * i for i in range(group.shards)],
                    shard_runs=[1 + i for i in range(group.shards)],
                    window_chunks=group.window,
                )
                for group in groups
            ]
            assert self.table.add_geometry(native) == len(self.twin.geometries)
            self.twin.geometries.append(groups)
        for session in (1, 2, 3):
            self.attach(session)
        self.table.attach(OWN_SESSION, instance=OWN_INSTANCE)
        self.twin.sessions[OWN_SESSION] = OWN_INSTANCE

    def attach(self, session: int) -> None:
        self.table.attach(session, instance=instance_of(session))
        self.twin.sessions[session] = instance_of(session)

    # Helpers.

    def both(self, native: Callable[[], R], twin: Callable[[], R]) -> R | None:
        """Run both; either both answer the same or both refuse for the same reason."""
        try:
            expected: R | str = twin()
        except Refused as refused:
            expected = refused.name
        try:
            seen: R | str = native()
        except TableError as error:
            seen = type(error).__name__
        assert seen == expected, (seen, expected)
        return None if isinstance(seen, str) else seen

    def new_id(self, ids: list[bytes]) -> bytes:
        ids.append(next(self.numbers).to_bytes(16, "big"))
        return ids[-1]

    def pick(self, ids: list[bytes], number: int) -> bytes:
        """Mostly a recent one, of those that live as well as of those that are over."""
        return ids[-1 - min(number % 40, number % len(ids))] if ids else bytes(16)

    def slots(self, geometry: int, number: int) -> list[int]:
        slots = range(sum(group.shards for group in GEOMETRIES[geometry]))
        return [slot for slot in slots if number >> slot & 1] or list(slots)

    # Writing.

    @rule(
        geometry=st.integers(0, 2),
        prompt=prompts,
        skip=st.integers(0, LENGTH_MAX),
        slots=picks,
        tenant=st.integers(0, 2),
        session=sessions,
        life=lives,
        disorder=st.sampled_from([None, None, None, "reversed", "doubled", "others"]),
        pool=st.sampled_from([Pool.CACHE, Pool.CACHE, Pool.PD]),
    )
    def reserve(
        self,
        geometry: int,
        prompt: str,
        skip: int,
        slots: int,
        tenant: int,
        session: int,
        life: int,
        disorder: str | None,
        pool: Pool,
    ) -> None:
        keys = chain(geometry, prompt)
        skip = min(skip, len(keys) - 1)
        parent, keys = (keys[skip - 1] if skip else b""), keys[skip:]
        if disorder == "reversed":
            keys.reverse()
        elif disorder == "doubled":
            keys = [*keys, *keys]
        elif disorder == "others":
            keys = [key((geometry + 1) % 3, prompt), *keys]
        lease = self.new_id(self.leases)
        wanted = self.slots(geometry, slots)
        seen: list[bytes] = []

        def native() -> list[Answer]:
            reserved = self.table.reserve(
                b"".join(keys),
                parent=parent,
                geometry=geometry,
                slots=wanted,
                tenant=tenant,
                lease=lease,
                session=session,
                now=self.now,
                expires=self.now + life,
                pool=pool,
            )
            seen.append(reserved.extents)
            return [Answer(answer) for answer in reserved.answers]

        answers = self.both(
            native,
            lambda: self.twin.reserve(
                keys,
                lease,
                parent=parent,
                geometry=geometry,
                slots=wanted,
                tenant=tenant,
                session=session,
                expires=self.now + life,
                pool=pool,
            ),
        )
        if answers is not None:
            check_extents(seen[0], answers, pool)

    @precondition(lambda self: self.leases)
    @rule(lease=picks, session=sessions, chosen=picks, load=st.booleans(), right=st.booleans())
    def settle(self, lease: int, session: int, chosen: int, load: bool, right: bool) -> None:
        """Commit or loaded: all that is left, or some of it."""
        lease_id = self.pick(self.leases, lease)
        known = self.twin.leases.get(lease_id)
        if known and right:
            session = known.session
        size = len(known.objects) if known and known.writes else 4
        indices = [i for i in range(size) if chosen >> i & 1]
        left = [i for i, one in enumerate(known.objects) if one] if known else []
        if not indices and known and not left:
            return  # an overdue one: nothing says how many there are
        digests = [1 + next(self.numbers) for _ in (indices or left)]
        method = self.table.loaded if load else self.table.commit
        self.both(
            lambda: list(
                method(
                    lease_id,
                    session=session,
                    indices=indices,
                    digests=array("Q", digests).tobytes(),
                    now=self.now,
                )
            ),
            lambda: self.twin.settle_writes(
                lease_id, session=session, indices=indices, digests=digests, load=load
            ),
        )

    @precondition(lambda self: self.leases)
    @rule(lease=picks, session=sessions)
    def abort(self, lease: int, session: int) -> None:
        lease_id = self.pick(self.leases, lease)
        self.both(
            lambda: self.table.abort(lease_id, session=session),
            lambda: self.twin.abort(lease_id, session=session),
        )

    # Reading.

    @rule(geometry=st.integers(0, 2), prompt=prompts, instance=st.integers(1, 3), life=lives)
    def lookup(self, geometry: int, prompt: str, instance: int, life: int) -> None:
        ticket = self.new_id(self.tickets)
        keys = chain(geometry, prompt)
        expires = self.now + life
        self.both(
            lambda: tuple(
                self.table.lookup(
                    b"".join(keys),
                    geometry=geometry,
                    ticket=ticket,
                    instance=instance,
                    readers=2,
                    now=self.now,
                    expires=expires,
                )
            ),
            lambda: self.twin.lookup(
                keys, ticket, geometry=geometry, instance=instance, readers=2, expires=expires
            ),
        )

    @rule(geometry=st.integers(0, 2), instance=st.integers(1, 3), life=lives)
    def open_ticket(self, geometry: int, instance: int, life: int) -> None:
        ticket = self.new_id(self.tickets)
        wanted = {"geometry": geometry, "instance": instance, "readers": 2}
        expires = self.now + life
        self.both(
            lambda: self.table.open_ticket(ticket, **wanted, now=self.now, expires=expires),
            lambda: self.twin.open_ticket(ticket, **wanted, expires=expires),
        )

    @precondition(lambda self: self.tickets)
    @rule(ticket=picks, more=prompts)
    def extend(self, ticket: int, more: str) -> None:
        ticket_id = self.pick(self.tickets, ticket)
        keys = self.prompt_of(ticket_id, more)
        self.both(
            lambda: self.table.extend(ticket_id, b"".join(keys), now=self.now),
            lambda: self.twin.extend(ticket_id, keys),
        )

    def prompt_of(self, ticket_id: bytes, more: str) -> list[bytes]:
        """A prompt that goes on from what the ticket has."""
        known = self.twin.tickets.get(ticket_id)
        if known is None or not known.chunks or known.chunks[-1] is None:
            return chain(known.geometry if known else 0, more)
        last = known.chunks[-1].key
        size = len(known.chunks)
        names = (f"{number:0{size}b}".translate({48: "a", 49: "b"}) for number in range(2**size))
        prompt = next(name for name in names if key(known.geometry, name) == last)
        return chain(known.geometry, prompt + more)

    @precondition(lambda self: self.tickets)
    @rule(
        ticket=picks,
        rank=st.integers(0, 1),
        slots=picks,
        first_chunk=st.integers(0, 3),
        session=sessions,
        life=lives,
    )
    def acquire(
        self, ticket: int, rank: int, slots: int, first_chunk: int, session: int, life: int
    ) -> None:
        ticket_id = self.pick(self.tickets, ticket)
        known = self.twin.tickets.get(ticket_id)
        lease = self.new_id(self.leases)
        wanted = {
            "rank": rank,
            "slots": self.slots(known.geometry if known else 0, slots),
            "first_chunk": first_chunk,
            "session": session,
            "expires": self.now + life,
        }

        def native() -> tuple[bytes, list[int]]:
            acquired = self.table.acquire(ticket_id, lease=lease, now=self.now, **wanted)
            return acquired.lease, list(array("Q", acquired.extents)[2::3])

        def twin() -> tuple[bytes, list[int]]:
            lease_id, made = self.twin.acquire(ticket_id, lease, **wanted)
            return lease_id, [one.digest if one else 0 for one in made.objects]

        self.both(native, twin)

    @precondition(lambda self: self.leases)
    @rule(lease=picks, session=sessions, damaged=st.sampled_from([[], [], [], [0], [1, 0], [99]]))
    def release(self, lease: int, session: int, damaged: Sequence[int]) -> None:
        lease_id = self.pick(self.leases, lease)
        self.both(
            lambda: self.table.release(lease_id, session=session, damaged=damaged, now=self.now),
            lambda: self.twin.release(lease_id, session=session, damaged=damaged),
        )

    @precondition(lambda self: self.tickets)
    @rule(ticket=picks, instance=st.integers(1, 2))
    def close_ticket(self, ticket: int, instance: int) -> None:
        ticket_id = self.pick(self.tickets, ticket)
        self.both(
            lambda: self.table.close_ticket(ticket_id, instance=instance),
            lambda: self.twin.close_ticket(ticket_id, instance=instance),
        )

    @rule(geometry=st.integers(0, 2), prompt=prompts)
    def touch(self, geometry: int, prompt: str) -> None:
        keys = chain(geometry, prompt)
        assert self.table.touch(b"".join(keys), now=self.now) == self.twin.touch(
            self.twin.chunks.get(key) for key in keys
        )
