"""The fp8 cast as Python calls it: against a dumb twin, and against torch's own."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock._native import (
    CastRefused,
    HalfKind,
    copy_bytes,
    crc64,
    fp8_cast,
    fp8_cast_bytes,
    fp8_restore,
)

FP8 = sorted(
    {m * 2.0**-9 for m in range(8)}
    | {(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)}
)[:-1]  # the greatest pattern is no number


def twin(run: list[float]) -> list[float]:
    """What a run becomes: nearest fp8 number, ties to the even one, under the least power of two that fits
    and whose steps float16 has."""
    scale = 1.0
    greatest = max(map(abs, run))
    if greatest:
        scale = max(2.0 ** (math.frexp(greatest)[1] - 20), 2.0**-15)
        while greatest / scale > 448:
            scale *= 2
    return [math.copysign(scale * nearest(abs(one) / scale), one) for one in run]


def nearest(value: float) -> float:
    return min(enumerate(FP8), key=lambda one: (abs(one[1] - value), one[0] % 2))[1]


def cast_and_restored(data: bytes, runs: int, kind: HalfKind) -> tuple[bytes, bytes] | None:
    cast = bytearray(fp8_cast_bytes(elements=len(data) // 2, runs=runs))
    digests = fp8_cast(source=data, target=cast, runs=runs, kind=kind)
    if digests is None:
        return None
    restored = bytearray(len(data))
    fp8_restore(source=cast, target=restored, runs=runs, kind=kind)
    return bytes(restored), digests


@settings(max_examples=150, deadline=None)
@example([[0.0, 0.0, 0.0, 0.0, 0.00363922119140625]])
@example([[6e-8, 1.2e-7, 3e-5, 6.1e-5, 0.0009]])
@given(
    st.integers(1, 4).flatmap(
        lambda runs: st.lists(
            st.lists(st.floats(-300, 300, width=16), min_size=5, max_size=5),
            min_size=runs,
            max_size=runs,
        )
    )
)
def test_it_is_what_the_definition_says(runs: list[list[float]]) -> None:
    """Runs of any numbers, each with a scale of its own."""
    values = [one for run in runs for one in run]
    data = struct.pack(f"<{len(values)}e", *values)
    result = cast_and_restored(data, len(runs), HalfKind.FLOAT16)
    assert result is not None
    restored, digests = result
    found = struct.unpack(f"<{len(values)}e", restored)
    for at, run in enumerate(runs):
        part = found[5 * at : 5 * at + 5]
        assert part == tuple(twin(run))
    told = [int.from_bytes(digests[at : at + 8], "little") for at in range(0, len(digests), 8)]
    assert told == [crc64(restored[10 * at : 10 * at + 10]) for at in range(len(runs))]


@pytest.mark.parametrize("kind", [*HalfKind])
def test_torch_rounds_in_the_same_way(kind: HalfKind) -> None:
    torch = pytest.importorskip("torch", reason="torch is what it is compared with")
    dtype = torch.bfloat16 if kind is HalfKind.BFLOAT16 else torch.float16
    torch.manual_seed(5)
    # Its greatest magnitude is in (256, 448]: so the scale is 1, and torch, which knows none, must agree.
    values = (torch.randn(50_000) * 60).clamp(-440, 440).to(dtype)
    values[7] = 447.0
    data = values.view(torch.uint8).numpy().tobytes()
    result = cast_and_restored(data, 1, kind)
    assert result is not None
    expected = values.to(torch.float8_e4m3fn).to(dtype).view(torch.uint8).numpy().tobytes()
    assert result[0] == expected


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 65504.0])
def test_what_is_no_number_or_would_become_none_is_not_cast(value: float) -> None:
    assert cast_and_restored(struct.pack("<2e", 1.0, value), 1, HalfKind.FLOAT16) is None
    assert cast_and_restored(struct.pack("<2e", 1.0, 1.0), 1, HalfKind.FLOAT16) is not None


def test_sizes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(CastRefused, match="4 bytes are not 3 runs"):
        fp8_cast(source=bytes(4), target=bytearray(8), runs=3, kind=HalfKind.FLOAT16)
    with pytest.raises(CastRefused, match="is cast to 4 bytes, not 5"):
        fp8_restore(source=bytes(5), target=bytearray(4), runs=1, kind=HalfKind.FLOAT16)
    with pytest.raises(ValueError, match="source has 4 bytes, target 5"):
        copy_bytes(source=bytes(4), target=bytearray(5))


def test_bytes_are_copied() -> None:
    target = bytearray(b"....")
    copy_bytes(source=b"ab", target=memoryview(target)[1:3])
    assert target == b".ab."
    copy_bytes(source=b"", target=bytearray())
