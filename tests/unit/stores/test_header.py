"""Headers: read back as written, and refused by name when they are anything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._native import crc64, write_headers
from penstock.actors.stores.header import (
    FIXED_BYTES,
    NO_SEAL,
    DamagedHeader,
    ForeignHeader,
    Header,
    HeaderRefused,
    OtherVersion,
    WrongObject,
    decode,
    encode,
    expect,
    header_bytes,
)

U64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    Header,
    key=st.binary(min_size=32, max_size=32),
    namespace=st.binary(min_size=32, max_size=32),
    tenant=st.binary(min_size=16, max_size=16),
    logical_bytes=U64,
    stored_bytes=U64,
    digest=U64,
    run_digests=st.integers(0, 700).map(lambda runs: bytes(range(8)) * runs),
    transform=st.sampled_from([b"", b"zstd", b"fp8+zstd+aesgcm"]),
    seal=st.binary(min_size=32, max_size=32),
)
ONE = Header(b"k" * 32, b"n" * 32, bytes(16), 1000, 1000, 7, b"12345678" * 3)


@given(HEADERS)
def test_a_header_is_read_back_as_it_was_written(header: Header) -> None:
    made = encode(header)
    assert len(made) == header_bytes(header.runs)
    assert len(made) % 4096 == 0
    assert decode(made) == header


def _written(headers: list[Header], target: bytearray) -> None:
    write_headers(
        target,
        keys=b"".join(one.key for one in headers),
        namespaces=b"".join(one.namespace for one in headers),
        tenants=b"".join(one.tenant for one in headers),
        logical_bytes=[one.logical_bytes for one in headers],
        digests=[one.digest for one in headers],
        run_digests=[one.run_digests for one in headers],
    )


@given(st.lists(HEADERS, max_size=4))
def test_those_of_a_batch_are_the_same_as_one_by_one(headers: list[Header]) -> None:
    """A9. Seen to fail with the tenant left out, and with the checksum begun behind the magic."""
    plain = [
        replace(one, stored_bytes=one.logical_bytes, transform=b"", seal=NO_SEAL) for one in headers
    ]
    target = bytearray(sum(header_bytes(one.runs) for one in plain))
    _written(plain, target)
    assert target == b"".join(encode(one) for one in plain)


@pytest.mark.parametrize("size", [0, 4095, 4097, 8192])
def test_a_target_of_another_length_is_refused(size: int) -> None:
    """Seen to fail (with memory written behind the target) without the check."""
    with pytest.raises(ValueError, match="target is not as long"):
        _written([ONE], bytearray(size))


def test_columns_of_different_lengths_are_refused() -> None:
    """Seen to fail without the check."""
    with pytest.raises(ValueError, match="different lengths"):
        _written([replace(ONE, tenant=b"short")], bytearray(4096))
    with pytest.raises(ValueError, match="not packed"):
        _written([replace(ONE, run_digests=b"1234567")], bytearray(4096))


@given(HEADERS, st.data())
@settings(max_examples=200)
def test_no_changed_bit_passes(header: Header, data: st.DataObject) -> None:
    """A9: nothing of a header can change unnoticed, but its padding."""
    made = encode(header)
    used = FIXED_BYTES + 8 * (header.runs + 1)
    bit = data.draw(st.integers(0, used * 8 - 1))
    made[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(HeaderRefused):
        decode(made)


@given(HEADERS, st.data())
def test_no_part_of_a_header_passes(header: Header, data: st.DataObject) -> None:
    """A9: a short or torn header."""
    made = encode(header)
    used = FIXED_BYTES + 8 * (header.runs + 1)
    with pytest.raises(HeaderRefused):
        decode(made[: data.draw(st.integers(0, len(made) - 1))])
    torn = bytearray(len(made))
    cut = data.draw(st.integers(0, used - 9))
    torn[:cut] = made[:cut]
    if torn != made:
        with pytest.raises(HeaderRefused):
            decode(torn)


def test_what_is_wrong_is_said_by_the_class() -> None:
    with pytest.raises(ForeignHeader):
        decode(bytes(4096))
    newer = encode(ONE)
    newer[8] = 2
    with pytest.raises(DamagedHeader, match="version 2"):  # its checksum is that of version 1
        decode(newer)
    end = FIXED_BYTES + 8 * ONE.runs
    newer[end : end + 8] = crc64(newer[:end]).to_bytes(8, "little")
    with pytest.raises(OtherVersion, match="version 2"):
        decode(newer)
    with pytest.raises(WrongObject, match="180 of them were read"):
        decode(encode(ONE)[:180])
    damaged = encode(ONE)
    damaged[20] ^= 1
    with pytest.raises(DamagedHeader, match="checksum"):
        decode(damaged)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", b"x" * 32),
        ("namespace", b"x" * 32),
        ("logical_bytes", 1001),
        ("runs", 4),
        ("transform", b"zstd"),
    ],
)
def test_another_object_is_refused_by_the_field_that_differs(field: str, value: object) -> None:
    """A7: the key stands in the header and is checked."""
    asked: dict[str, object] = {
        "key": ONE.key,
        "namespace": ONE.namespace,
        "logical_bytes": 1000,
        "runs": 3,
        "transform": b"",
    }
    expect(ONE, **asked)  # type: ignore[arg-type]
    with pytest.raises(WrongObject, match=field):
        expect(ONE, **{**asked, field: value})  # type: ignore[arg-type]
