"""The native proof of a batch: what it calls good is what the header's own reader calls good."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._native import crc64, crc64_of_each, prove_objects
from penstock.actors.stores.digests import runs_agree
from penstock.actors.stores.header import (
    NO_TENANT,
    Header,
    HeaderRefused,
    decode,
    encode,
    expect,
    whole_blocks,
)

RUN_BYTES = 512


@dataclass(frozen=True)
class Case:
    """An object as it was read, and what was asked for."""

    asked: Header
    header: bytearray
    payload: bytearray
    payload_bytes: int


def case(runs: int, *, tail_bytes: int = 0) -> Case:
    payload = bytearray(os.urandom(runs * RUN_BYTES + tail_bytes))
    digests = b"".join(
        crc64(payload[at * RUN_BYTES : (at + 1) * RUN_BYTES]).to_bytes(8, "little")
        for at in range(runs)
    )
    size = len(payload)
    header = Header(os.urandom(32), os.urandom(32), NO_TENANT, size, size, crc64(payload), digests)
    payload += bytes(whole_blocks(size) - size)
    return Case(header, encode(header), payload, len(payload))


def proven(*cases: Case) -> list[tuple[int, bytes] | None]:
    return prove_objects(
        keys=b"".join(one.asked.key for one in cases),
        namespaces=b"".join(one.asked.namespace for one in cases),
        logical_bytes=[one.asked.logical_bytes for one in cases],
        runs=[one.asked.runs for one in cases],
        headers=[one.header for one in cases],
        payloads=[one.payload for one in cases],
        payload_bytes=[one.payload_bytes for one in cases],
    )


def twin(one: Case) -> tuple[int, bytes] | None:
    """The same, step by step."""
    asked = one.asked
    try:
        header = decode(one.header)
        expect(
            header,
            key=asked.key,
            namespace=asked.namespace,
            logical_bytes=asked.logical_bytes,
            runs=asked.runs,
            transform=b"",
        )
    except HeaderRefused:
        return None
    if one.payload_bytes < whole_blocks(header.stored_bytes):
        return None
    if crc64(one.payload[: asked.logical_bytes]) != header.digest:
        return None
    if not runs_agree(header.digest, header.run_digests, header.logical_bytes):
        return None
    return header.digest, header.run_digests


@pytest.mark.parametrize(
    ("runs", "tail_bytes"), [(0, 0), (0, 100), (1, 0), (7, 0), (7, 100), (96, 100), (600, 0)]
)
def test_a_whole_object_is_proven_with_its_digests(runs: int, tail_bytes: int) -> None:
    """With runs of one length, and without: then nobody can say whether they agree."""
    one = case(runs, tail_bytes=tail_bytes)
    (proof,) = proven(one)
    assert proof == (one.asked.digest, one.asked.run_digests) == twin(one)


def test_each_field_that_is_not_as_asked_for_is_refused() -> None:
    """Each in a header that is whole, beside objects that are good and stay so."""
    good = case(3)
    asked = good.asked
    size = asked.logical_bytes
    header = encode(replace(asked, stored_bytes=size + 2 * 4096))
    others = [
        replace(good, asked=replace(asked, key=bytes(32))),
        replace(good, asked=replace(asked, namespace=bytes(32))),
        replace(good, asked=replace(asked, logical_bytes=size - 1)),
        replace(good, asked=replace(asked, run_digests=asked.run_digests[8:])),
        replace(good, header=encode(replace(asked, transform=b"zstd"))),
        replace(good, header=encode(replace(asked, digest=asked.digest ^ 1))),
        replace(good, header=encode(replace(asked, run_digests=bytes(24)))),
        replace(good, header=header),
        replace(good, payload_bytes=good.payload_bytes - 1),
        replace(good, payload=good.payload[: size - 1]),
        replace(good, header=good.header[:-1]),
    ]
    mixed = [good]
    for one in others:
        mixed += [one, good]
    proofs = proven(*mixed)
    assert proofs[1::2] == [None] * len(others)
    assert proofs[::2] == [twin(good)] * (len(others) + 1)
    assert [twin(one) for one in others[:9]] == [None] * 9


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.booleans(), st.integers(0, 4095), st.integers(1, 255)), max_size=3),
    st.integers(-1, 1),
)
def test_it_agrees_with_the_reader_of_headers(
    runs: int, flips: list[tuple[bool, int, int]], less_blocks: int
) -> None:
    """Of any bytes."""
    one = case(runs, tail_bytes=64)
    for is_header, at, bits in flips:
        data = one.header if is_header else one.payload
        data[at % len(data)] ^= bits
    one = replace(one, payload_bytes=one.payload_bytes - max(less_blocks, 0) * 4096)
    assert proven(one) == [twin(one)]


def test_columns_of_different_lengths_are_refused() -> None:
    one = case(1)
    with pytest.raises(ValueError, match="lengths"):
        prove_objects(
            keys=one.asked.key * 2,
            namespaces=one.asked.namespace,
            logical_bytes=[one.asked.logical_bytes],
            runs=[1],
            headers=[one.header],
            payloads=[one.payload],
            payload_bytes=[one.payload_bytes],
        )
    assert proven() == []


def test_digests_of_many_buffers() -> None:
    some = [b"", b"123456789", memoryview(bytes(4096))[:100]]
    assert crc64_of_each(some) == [crc64(one) for one in some]
