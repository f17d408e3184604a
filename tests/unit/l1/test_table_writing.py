"""Reservations and commits: partial ones, late ones, strange ones."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest
from support.table_rig import TableRig, extents, prompt

from penstock._native import Answer, BadArgument, BadKeys, GeometryUnknown, Group, Outcome, Rule

GRANTED, RESIDENT, IN_FLIGHT = Answer.GRANTED, Answer.RESIDENT, Answer.IN_FLIGHT


def u64(*words: int) -> bytes:
    return array("Q", words).tobytes()


def test_two_writers_of_one_key() -> None:
    rig, keys = TableRig(), prompt("p", 3)
    first, _ = rig.reserve(keys[:2])
    assert rig.answers(keys, session=2) == [IN_FLIGHT, IN_FLIGHT, GRANTED]
    rig.commit(first, [1], indices=[0])
    assert rig.answers(keys, session=2) == [RESIDENT, IN_FLIGHT, GRANTED]
    rig.table.abort(first, session=1)
    assert rig.answers(keys, session=2) == [RESIDENT, GRANTED, GRANTED]
    rig.table.validate()


def test_a_lease_lives_until_all_of_it_is_settled() -> None:
    rig, keys = TableRig(), prompt("p", 3)
    lease, _ = rig.reserve(keys)
    assert rig.commit(lease, [7], indices=[2]) == [Outcome.OK]
    assert rig.commit(lease, [8, 9], indices=[2, 0]) == [Outcome.STALE, Outcome.OK]
    assert rig.table.statistics().leases == 1
    assert rig.commit(lease, [5]) == [Outcome.OK], "empty indices: what is left"
    assert rig.table.statistics().leases == 0
    assert [e.digest for e in extents(rig.read(keys).extents)] == [9, 5, 7]
    assert rig.commit(lease, [5]) == [Outcome.STALE]
    assert rig.table.abort(lease, session=1) is Outcome.STALE


def test_an_abort_frees_what_is_left_and_keeps_what_is_committed() -> None:
    rig, keys = TableRig(pages=8), prompt("p", 4)
    lease, _ = rig.reserve(keys)
    rig.commit(lease, [1, 2], indices=[0, 1])
    assert rig.table.abort(lease, session=1) is Outcome.OK
    assert (rig.hit(keys), rig.pages_free()) == (2, 6)
    assert rig.table.statistics().discarded_objects == 2
    rig.table.validate()


def test_a_reservation_of_nothing_has_no_lease() -> None:
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    lease, reserved = rig.reserve(keys)
    assert list(reserved.answers) == [RESIDENT] * 2
    assert not any(extent.bytes for extent in extents(reserved.extents))
    assert rig.table.abort(lease, session=1) is Outcome.STALE


def test_run_digests_are_kept_where_an_object_has_several() -> None:
    groups = [
        Group(rule=Rule.FULL, shard_bytes=[100, 100], shard_runs=[1, 3]),
        Group(rule=Rule.FULL, shard_bytes=[100]),
    ]
    rig, keys = TableRig(groups=groups), prompt("p", 2)
    lease, _ = rig.reserve(keys, slots=[0, 1])
    outcomes = rig.table.commit(
        lease,
        session=1,
        digests=u64(10, 20, 30, 40),
        runs=u64(10, 21, 22, 23, 30, 41, 42, 43),
        now=0,
    )
    assert list(outcomes) == [Outcome.OK] * 4
    assert rig.table.runs(keys[0], 0) == u64(10)
    assert rig.table.runs(keys[0], 1) == u64(21, 22, 23)
    assert rig.table.runs(keys[1], 1) == u64(41, 42, 43)
    assert rig.table.runs(keys[0], 2) == b""
    assert rig.table.runs(bytes(32), 0) == b""
    kept = rig.table.statistics().metadata_bytes
    assert rig.evict_all() == 4
    assert rig.table.runs(keys[0], 1) == b""
    # Two objects of 3 digests, their number and a word of the heap's: 40 bytes, rounded up to 48.
    assert rig.table.statistics().metadata_bytes == kept - 2 * 48, "forgotten with the objects"


@pytest.mark.parametrize(
    ("digests", "runs", "says"),
    [
        (u64(1, 2), b"", "2 digests for 1 objects"),
        (b"", b"", "no digests"),
        (b"1234567", b"", "digests of 7 bytes"),
        (u64(1), u64(1, 2), "2 run digests and 1 digests for objects of 3 runs"),
        (u64(1), b"123", "runs of 3 bytes"),
    ],
)
def test_digests_that_do_not_fit_are_refused_and_change_nothing(
    digests: bytes, runs: bytes, says: str
) -> None:
    rig = TableRig(groups=[Group(rule=Rule.FULL, shard_bytes=[100], shard_runs=[3])])
    lease, _ = rig.reserve(prompt("p", 1))
    with pytest.raises(BadArgument, match=says):
        rig.table.commit(lease, session=1, digests=digests, runs=runs, now=0)
    with pytest.raises(BadArgument, match="index 1 of a reservation of 1"):
        rig.commit(lease, [1], indices=[1])
    rig.table.validate()
    assert rig.commit(lease, [1]) == [Outcome.OK]


def test_a_prefix_written_after_its_suffix_is_one_prompt() -> None:
    rig, keys = TableRig(), prompt("p", 4)
    rig.put(keys[2:], parent=keys[1])  # the parent was never seen
    rig.put(keys[:2])
    assert rig.hit(keys) == 4
    rig.reserve(keys)  # links what is there
    assert [rig.table.evict(1, now=0).keys for _ in range(4)] == keys[::-1]


def test_a_chunk_without_objects_stays_while_it_has_children() -> None:
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    assert rig.table.drop(keys[0] + keys[1]) == 2
    numbers = rig.table.statistics()
    assert (numbers.chunks, numbers.placeholders) == (1, 2)
    assert rig.hit(keys) == 0
    rig.table.validate()
    rig.put(keys[:1])
    rig.table.validate()
    assert rig.table.evict(1, now=0).keys == keys[2], "still a line: the suffix goes first"
    numbers = rig.table.statistics()
    assert (numbers.chunks, numbers.placeholders) == (1, 0)


@pytest.mark.parametrize("order", [[1, 0], [0, 0], [2, 1, 0], [0, 1, 2, 0]])
def test_keys_in_an_impossible_order_harm_nobody(order: Sequence[int]) -> None:
    """Seen to fail, with chunks that could never be evicted, when circles of parents were made."""
    rig, keys = TableRig(), prompt("p", 3)
    rig.put(keys)
    rig.table.drop(b"".join(keys))
    rig.put([keys[i] for i in order])
    rig.put(keys)
    rig.table.validate()
    rig.evict_all()
    assert rig.table.statistics().chunks + rig.table.statistics().placeholders == 0


def test_refusals_of_reservations_say_what_is_wrong() -> None:
    rig, keys = TableRig(), prompt("p", 2)
    rig.put(keys)
    with pytest.raises(BadArgument, match="slots must ascend"):
        rig.reserve(keys, slots=[0, 0])
    with pytest.raises(BadKeys, match="a key has 32 bytes"):
        rig.reserve(keys, parent=bytes(64))
    with pytest.raises(BadKeys, match="0 keys"):
        rig.reserve([])
    rig.geometry = rig.table.add_geometry([Group(rule=Rule.FULL, shard_bytes=[1])])
    with pytest.raises(GeometryUnknown, match="written under geometry 0"):
        rig.reserve([*prompt("q", 1), *keys])
    assert rig.table.statistics().objects == 2, "not even the first was granted"
    rig.table.validate()


def test_a_lease_is_of_a_bounded_number_of_objects() -> None:
    rig = TableRig(groups=[Group(rule=Rule.FULL, shard_bytes=[1] * 4096)])
    keys = prompt("p", 257)
    with pytest.raises(BadArgument, match="4096 slots of 257 chunks: give at most 1048576"):
        rig.reserve(keys, slots=range(4096))
    lease, reserved = rig.reserve(keys[:1], slots=range(4096))
    assert list(reserved.answers).count(GRANTED) == 64, "one page each"
    assert rig.table.abort(lease, session=1) is Outcome.OK


def test_geometries_that_cannot_be_are_refused() -> None:
    table = TableRig().table
    for groups, says in (
        ([], "0 groups"),
        ([Group(rule=Rule.FULL, shard_bytes=[1])] * 65, "65 groups"),
        ([Group(rule=Rule.FULL, shard_bytes=[1] * 2500)] * 2, "5000 objects"),
        ([Group(rule=Rule.FULL, shard_bytes=[])], "group 0 has no shards"),
        ([Group(rule=Rule.FULL, shard_bytes=[1, 0])], "shard of 0 bytes"),
        ([Group(rule=Rule.FULL, shard_bytes=[1, 1], shard_runs=[1])], "1 entries for 2 shards"),
        ([Group(rule=Rule.FULL, shard_bytes=[1], shard_runs=[0])], "0 runs"),
        ([Group(rule=Rule.WINDOW, shard_bytes=[1])], "window of 0 chunks"),
    ):
        with pytest.raises(BadArgument, match=says):
            table.add_geometry(groups)


def test_records_run_out_before_memory_does() -> None:
    rig = TableRig(pages=100, objects_max=5)
    rig.put(prompt("p", 3))
    lease, reserved = rig.reserve(prompt("q", 4))
    assert list(reserved.answers) == [GRANTED] * 2 + [Answer.NO_ROOM] * 2
    assert reserved.bytes_missing == 2 * 4096, "evicting so much makes records free too"
    rig.table.evict(reserved.bytes_missing, now=0)
    rig.table.abort(lease, session=1)
    assert rig.answers(prompt("q", 4)) == [GRANTED] * 4
    rig.table.validate()
