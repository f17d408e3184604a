"""A commit in parts leaves the table as the same commit at once does."""

from __future__ import annotations

import hashlib
import os

import pytest

from penstock import _native

CHUNKS = 10
SLOTS = (0, 1)
RUNS = (3, 1)  # of each slot
DIGESTS = os.urandom(8 * CHUNKS * len(SLOTS))
RUN_DIGESTS = os.urandom(8 * CHUNKS * sum(RUNS))
KEYS = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(CHUNKS))
LEASE = bytes(16)


def reserved() -> _native.Table:
    table = _native.Table(
        arena_bytes=1 << 20, objects_max=64, policy=_native.Policy.LRU, quarantine_bytes_max=1 << 20
    )
    group = _native.Group(rule=_native.Rule.FULL, shard_bytes=[4096, 4096], shard_runs=list(RUNS))
    geometry = table.add_geometry([group])
    table.attach(1, instance=1)
    table.reserve(
        KEYS,
        parent=b"",
        geometry=geometry,
        slots=SLOTS,
        tenant=0,
        lease=LEASE,
        session=1,
        now=0.0,
        expires=10.0,
    )
    return table


def commit(table: _native.Table, indices: tuple[int, ...], objects_max: int) -> list[bytes]:
    outcomes: list[bytes] = []
    runs_done = 0
    wanted = len(DIGESTS) // 8
    while (done := sum(map(len, outcomes))) < wanted:
        part, runs_done = table.commit_some(
            LEASE,
            session=1,
            indices=indices,
            digests=DIGESTS,
            runs=RUN_DIGESTS,
            done=done,
            runs_done=runs_done,
            objects_max=objects_max,
            now=1.0,
        )
        outcomes.append(part)
        table.validate()
    return outcomes


@pytest.mark.parametrize("named", [(), tuple(range(CHUNKS * len(SLOTS)))], ids=["all", "named"])
@pytest.mark.parametrize("objects_max", [1, 3, 7, 20, 1000])
def test_parts_make_the_whole(named: tuple[int, ...], objects_max: int) -> None:
    table, whole = reserved(), reserved()
    parts = commit(table, named, objects_max)
    at_once = whole.commit(
        LEASE, session=1, indices=named, digests=DIGESTS, runs=RUN_DIGESTS, now=1.0
    )
    assert b"".join(parts) == at_once == bytes(CHUNKS * len(SLOTS))
    assert all(len(part) <= objects_max for part in parts)
    for chunk in range(CHUNKS):
        key = KEYS[32 * chunk : 32 * chunk + 32]
        for slot in SLOTS:
            assert table.runs(key, slot) == whole.runs(key, slot) != b""


def test_what_is_left_of_a_lease_that_ends_between_two_parts_is_stale() -> None:
    table = reserved()
    wanted = {"session": 1, "indices": (), "digests": DIGESTS, "runs": RUN_DIGESTS, "now": 1.0}
    part, runs_done = table.commit_some(LEASE, done=0, runs_done=0, objects_max=4, **wanted)
    assert part == bytes(4)
    table.abort(LEASE, session=1)
    rest, _ = table.commit_some(LEASE, done=4, runs_done=runs_done, objects_max=4, **wanted)
    assert rest == bytes([_native.Outcome.STALE]) * (CHUNKS * len(SLOTS) - 4)
    table.validate()


def test_a_part_is_refused_when_the_whole_does_not_fit() -> None:
    table = reserved()
    with pytest.raises(_native.BadArgument):
        table.commit_some(
            LEASE,
            session=1,
            indices=(),
            digests=DIGESTS[8:],
            runs=RUN_DIGESTS,
            done=0,
            runs_done=0,
            objects_max=1,
            now=1.0,
        )
    assert table.statistics().bytes_resident == 0
