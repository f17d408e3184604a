"""CRC-64/NVME and the hit rule, as Python sees them."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._native import (
    Bitmap,
    BitmapMismatch,
    GroupPresence,
    Rule,
    crc64,
    crc64_combine,
    crc64_implementations,
    crc64_join_runs,
    longest_hit,
)


def _by_definition(data: bytes) -> int:
    state = (1 << 64) - 1
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x9A6C9329AC4BC9B5 if state & 1 else 0)
    return state ^ ((1 << 64) - 1)


def test_the_published_check_value() -> None:
    assert crc64(b"123456789") == 0xAE8B14860A799888
    assert crc64_implementations()[0] == "table"


@given(st.binary(max_size=700), st.integers(0, 700))
def test_digests_continue_and_combine(data: bytes, cut: int) -> None:
    left, right = data[:cut], data[cut:]
    whole = _by_definition(data)
    assert crc64(data) == whole
    assert crc64(right, initial=crc64(left)) == whole
    assert crc64_combine(crc64(left), crc64(right), len(right)) == whole


@given(st.lists(st.binary(min_size=24, max_size=24), max_size=6))
def test_run_digests_join(runs: list[bytes]) -> None:
    digests = array("Q", [crc64(run) for run in runs])
    assert crc64_join_runs(digests, run_bytes=24) == crc64(b"".join(runs))


def test_a_buffer_with_holes_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        crc64(memoryview(b"abcdef")[::2])


Group = tuple[list[bool], Rule, int]


def _holds(group: Group, n: int) -> bool:
    present, rule, window = group
    needed = {Rule.FULL: n, Rule.WINDOW: min(window, n), Rule.STATE: min(1, n)}[rule]
    return all(present[n - needed : n])


@st.composite
def prompts(draw: st.DrawFn) -> list[Group]:
    """Groups of one prompt; mostly present, so that rules meet far from zero."""
    chunks = draw(st.integers(0, 150))
    presence = st.lists(st.sampled_from([True] * 9 + [False]), min_size=chunks, max_size=chunks)
    return draw(
        st.lists(
            st.tuples(presence, st.sampled_from(list(Rule)), st.integers(1, 9)),
            min_size=1,
            max_size=4,
        )
    )


def _bitmap(bits: list[bool]) -> Bitmap:
    bitmap = Bitmap(len(bits))
    for index, bit in enumerate(bits):
        if bit:
            bitmap.set(index)
    return bitmap


@given(prompts())
def test_the_hit_is_the_largest_n_at_which_every_group_holds(groups: list[Group]) -> None:
    """A16. Goal: attention alone never decides a hybrid model's hit. Method: against a twin that
    tries every n from the top. Seen to fail with the window taken from the prompt's start."""
    presences = [
        GroupPresence(present=_bitmap(bits), rule=rule, window_chunks=window)
        for bits, rule, window in groups
    ]
    chunks = len(groups[0][0])
    expected = next(n for n in range(chunks, -1, -1) if all(_holds(g, n) for g in groups))
    assert longest_hit(presences) == expected


@given(st.lists(st.booleans(), max_size=140), st.data())
def test_bitmaps_equal_lists(left: list[bool], data: st.DataObject) -> None:
    right = data.draw(st.lists(st.booleans(), min_size=len(left), max_size=len(left)))
    a, b = _bitmap(left), _bitmap(right)
    both = [x and y for x, y in zip(left, right, strict=True)]
    either = [x or y for x, y in zip(left, right, strict=True)]
    assert a & b == _bitmap(both)
    assert a | b == _bitmap(either)
    assert a.count() == sum(left)
    assert a.prefix() == (left.index(False) if False in left else len(left))
    assert [a[index] for index in range(len(a))] == left
    assert Bitmap.from_bytes(a.to_bytes(), size=len(a)) == a


def test_bitmap_misuse_is_refused() -> None:
    bitmap = Bitmap(3)
    for misuse in (
        lambda: bitmap[3],
        lambda: bitmap.set(3),
        lambda: bitmap & Bitmap(4),
        lambda: Bitmap.from_bytes(b"", size=1),
        lambda: longest_hit([GroupPresence(present=bitmap, rule=Rule.WINDOW)]),
    ):
        with pytest.raises(BitmapMismatch):
            misuse()
    bitmap.set(1)
    bitmap.reset(1)
    assert bitmap.count() == 0
