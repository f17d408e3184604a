"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.units import GIB, KIB, MIB, ByteSize, Seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 * GIB),
        ("512MiB", 512 * MIB),
        ("64 KiB", 64 * KIB),
        ("1.5KiB", 1536),
        ("2GB", 2_000_000_000),
        ("17", 17),
        ("0B", 0),
        (1234, 1234),
    ],
)
def test_sizes_are_read(text: object, expected: int) -> None:
    size = ByteSize.from_config(text)
    assert size == expected
    assert isinstance(size, ByteSize)


@pytest.mark.parametrize(
    "text", ["4G", "4gib", "GiB", "-1KiB", "", "1.3B", "1e3", -1, True, 1.5, None]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        ByteSize.from_config(text)


@given(st.integers(0, 1 << 60))
def test_a_size_reads_back_as_it_is_written(count: int) -> None:
    assert ByteSize.from_config(str(ByteSize(count))) == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2s", 2.0),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("1.5m", 90.0),
        ("1h", 3600.0),
        (3, 3.0),
        ("0.1", 0.1),
    ],
)
def test_durations_are_read(text: object, expected: float) -> None:
    assert Seconds.from_config(text) == expected


@pytest.mark.parametrize(
    "text", ["2 sec", "-1s", "inf", float("nan"), float("inf"), -0.1, True, []]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Seconds.from_config(text)
