"""Transforms: what is saved comes back, and nothing else ever does."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transforms import KEYS_A, KEYS_B, lossy_of_samples

from penstock._native import crc64, crc64_join_runs
from penstock.actors.core.lossy import LossyNamespaces
from penstock.actors.stores.header import Header, whole_blocks
from penstock.actors.stores.samples import NAMESPACE
from penstock.actors.stores.transform import Declined, Effort, Pipeline, Step, Unreadable
from penstock.actors.stores.transform_config import ZstdConfig
from penstock.actors.stores.transform_fp8 import Fp8Step
from penstock.actors.stores.transform_keys import parse_keys
from penstock.actors.stores.transform_seal import SealStep
from penstock.actors.stores.transform_zstd import ZstdStep
from penstock.runtime.units import MIB


def zstd() -> ZstdStep:
    return ZstdStep(ZstdConfig())


def seal(keys: str = KEYS_A) -> SealStep:
    return SealStep(parse_keys(keys, "keys"))


def fp8() -> Fp8Step:
    return Fp8Step(lossy_of_samples())


EXACT: dict[str, Callable[[], list[Step]]] = {
    "zstd": lambda: [zstd()],
    "seal": lambda: [seal()],
    "both": lambda: [zstd(), seal()],
}
SEALED = {name: make for name, make in EXACT.items() if name != "zstd"}


def header_of(data: bytes, *, name: str = "a", runs: int = 1, tenant: bytes = bytes(16)) -> Header:
    size = len(data) // runs
    digests = [crc64(data[at * size : (at + 1) * size]) for at in range(runs)]
    packed = struct.pack(f"<{runs}Q", *digests)
    return Header(
        key=hashlib.sha256(name.encode()).digest(),
        namespace=NAMESPACE,
        tenant=tenant,
        logical_bytes=len(data),
        stored_bytes=len(data),
        digest=crc64_join_runs(packed, run_bytes=size),
        run_digests=packed,
    )


def apply(steps: Sequence[Step], header: Header, data: bytes) -> tuple[Header, bytes]:
    pipeline = Pipeline(steps)
    rooms = [memoryview(bytearray(whole_blocks(len(data)))) for _ in range(pipeline.rooms)]
    told, room = pipeline.apply(header, memoryview(bytearray(data)), rooms, Effort())
    return told, bytes((room or memoryview(data))[: told.stored_bytes])


def undo(steps: Sequence[Step], header: Header, stored: bytes) -> tuple[Header, bytes]:
    pipeline = Pipeline(steps)
    size = whole_blocks(max(header.logical_bytes, len(stored)))
    rooms = [memoryview(bytearray(size)) for _ in range(pipeline.rooms)]
    rooms[0][: len(stored)] = stored
    memory = bytearray(b"\xa5" * (header.logical_bytes + 64))
    target = memoryview(memory)[: header.logical_bytes]
    try:
        return pipeline.undo(header, rooms, target, Effort()), bytes(target)
    finally:
        assert memory[header.logical_bytes :] == b"\xa5" * 64, "written beyond the target"


DATA = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.builds(lambda unit, size: (unit * size)[:size], st.binary(min_size=1), st.integers(1, 9000)),
    st.sampled_from([4095, 4096, 4097, 65_536, 100_001]).map(os.urandom),
    st.sampled_from([4095, 4096, 4097, MIB - 1, MIB, MIB + 1]).map(bytes),
)


@pytest.mark.parametrize("make", [*EXACT.values()], ids=[*EXACT])
@settings(max_examples=60, deadline=None)
@given(data=DATA)
def test_any_bytes_come_back_and_take_no_more_blocks(
    make: Callable[[], list[Step]], data: bytes
) -> None:
    header = header_of(data)
    told, stored = apply(make(), header, data)
    assert len(stored) == told.stored_bytes
    assert whole_blocks(len(stored)) <= whole_blocks(len(data))
    assert undo(make(), told, stored) == (header, data)


@pytest.mark.parametrize("make", [*SEALED.values()], ids=[*SEALED])
@settings(max_examples=100, deadline=None)
@given(data=DATA, draw=st.data())
def test_a_sealed_object_with_any_bit_changed_does_not_open(
    make: Callable[[], list[Step]], data: bytes, draw: st.DataObject
) -> None:
    """A9: in the payload, the enciphered digests, the seal, or what says which object it is."""
    told, stored = apply(make(), header_of(data), data)
    at = draw.draw(st.integers(0, 8 * len(stored) - 1))
    flipped = bytearray(stored)
    flipped[at // 8] ^= 1 << at % 8
    with pytest.raises(Unreadable):
        undo(make(), told, bytes(flipped))
    bit = draw.draw(st.integers(0, 63))
    digests = bytearray(told.run_digests)
    digests[bit // 8] ^= 1 << bit % 8
    seal_bit = draw.draw(st.integers(0, 255))
    broken = bytearray(told.seal)
    broken[seal_bit // 8] ^= 1 << seal_bit % 8
    other = bytes(reversed(told.key))
    for changed in (
        {"digest": told.digest ^ 1 << bit},
        {"run_digests": bytes(digests)},
        {"seal": bytes(broken)},
        {"key": other},
        {"namespace": other},
        {"tenant": other[:16]},
        {"logical_bytes": told.logical_bytes + 1},
    ):
        with pytest.raises(Unreadable):
            undo(make(), replace(told, **changed), stored)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [*SEALED.values()], ids=[*SEALED])
@settings(max_examples=40, deadline=None)
@given(data=DATA, draw=st.data())
def test_a_part_of_a_sealed_object_does_not_open(
    make: Callable[[], list[Step]], data: bytes, draw: st.DataObject
) -> None:
    told, stored = apply(make(), header_of(data), data)
    cut = draw.draw(st.integers(0, len(stored) - 1))
    with pytest.raises(Unreadable):
        undo(make(), replace(told, stored_bytes=cut), stored[:cut])
    with pytest.raises(Unreadable):
        undo(make(), replace(told, stored_bytes=len(stored) + 1), stored + b"\0")


def test_encrypted_objects_swapped_between_keys_do_not_open() -> None:
    """A18: the object key is authenticated data. Both are whole, of one tenant, one size and one master key."""
    step = seal()
    one, other = os.urandom(9000), os.urandom(9000)
    of_one, stored_one = apply([step], header_of(one, name="one"), one)
    of_other, stored_other = apply([step], header_of(other, name="other"), other)
    assert undo([step], of_one, stored_one)[1] == one
    # Somebody who can write to the disk gives each the other's name; their headers are good in every other way.
    for header, named, stored in ((of_one, of_other, stored_one), (of_other, of_one, stored_other)):
        with pytest.raises(Unreadable, match="does not open"):
            undo([step], replace(header, key=named.key), stored)
    # Or only what is below the headers.
    with pytest.raises(Unreadable, match="does not open"):
        undo([step], of_one, stored_other)


def test_another_tenant_or_another_master_key_does_not_open_it() -> None:
    data = os.urandom(5000)
    told, stored = apply([seal()], header_of(data, tenant=b"t" * 16), data)
    with pytest.raises(Unreadable, match="does not open"):
        undo([seal()], replace(told, tenant=b"u" * 16), stored)
    with pytest.raises(Unreadable, match="master key 7, which is not given"):
        undo([seal(KEYS_B)], told, stored)
    same_number = KEYS_A.replace("1f", "2e")
    with pytest.raises(Unreadable, match="does not open"):
        undo([seal(same_number)], told, stored)


def test_keys_are_rotated_by_putting_a_new_one_first() -> None:
    data = os.urandom(5000)
    header = header_of(data)
    old, old_stored = apply([seal()], header, data)
    both = seal(KEYS_B + KEYS_A)
    assert undo([both], old, old_stored) == (header, data)
    new, new_stored = apply([both], header, data)
    assert undo([seal(KEYS_B)], new, new_stored) == (header, data)


def test_nothing_of_an_object_can_be_read_from_what_is_stored() -> None:
    """Neither its bytes nor its digests; and the same object saved twice has nothing in common."""
    data = b"what an engine computed" * 1000
    step = seal()
    header = header_of(data, runs=2)
    first, stored = apply([step], header, data)
    second, again = apply([step], header, data)
    assert first.digest != header.digest
    assert first.run_digests[:8] != header.run_digests[:8]
    assert b"engine" not in stored
    assert first.seal[4:16] != second.seal[4:16], "a nonce was used twice"
    assert stored[:32] != again[:32]
    assert first.digest != second.digest


def test_what_was_stored_in_the_clear_is_not_read_by_a_store_that_encrypts() -> None:
    """Who can write to the disk could otherwise have anything read, under any key."""
    data = os.urandom(5000)
    header = header_of(data)
    for steps in ([seal()], [zstd(), seal()]):
        with pytest.raises(Unreadable, match="not aesgcm"):
            undo(steps, header, data)
    compressed, stored = apply([zstd()], header_of(bytes(9000)), bytes(9000))
    with pytest.raises(Unreadable, match="not aesgcm"):
        undo([zstd(), seal()], compressed, stored)
    with pytest.raises(Unreadable, match="which this store has not"):
        undo([seal()], replace(header, transform=b"zstd"), data)
    with pytest.raises(Unreadable, match="which this store has not"):
        undo([zstd(), seal()], replace(header, transform=b"aesgcm+zstd"), data)


def test_what_does_not_get_smaller_is_stored_as_it_is() -> None:
    told, stored = apply([zstd()], header_of(noise := os.urandom(3 * MIB)), noise)
    assert (told.transform, stored) == (b"", noise)
    told, stored = apply([zstd()], header_of(bytes(3 * MIB)), bytes(3 * MIB))
    assert told.transform == b"zstd"
    assert len(stored) < 4096
    told, _ = apply([zstd()], header_of(bytes(4096)), bytes(4096))
    assert told.transform == b"", "one block cannot become less"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 5000))
def test_no_bytes_make_zstd_write_too_much(noise: bytes, size: int) -> None:
    """A bomb, a part, or no zstd at all: refused, or as many bytes as the header says."""
    bomb, stored = apply([zstd()], header_of(bytes(MIB)), bytes(MIB))
    small = replace(bomb, logical_bytes=size)
    with pytest.raises(Unreadable):
        undo([zstd()], small, stored)
    try:
        _, data = undo([zstd()], replace(small, stored_bytes=len(noise)), noise)
    except Unreadable:
        return
    assert len(data) == size


# The lossy one.


def bfloat16(count: int, seed: int = 0) -> bytes:
    draw = [struct.pack("<f", ((n * 2654435761 + seed) % 20011 - 10005) / 64) for n in range(count)]
    return b"".join(one[2:] for one in draw)


def test_a_cast_object_comes_back_as_its_header_says() -> None:
    """Its digests are those of what an engine is given, not of what one computed."""
    data = bfloat16(12_000)
    header = header_of(data, runs=4)
    told, stored = apply([fp8()], header, data)
    assert told.transform == b"fp8"
    assert len(stored) == 4 * 2 + 12_000
    after, restored = undo([fp8()], told, stored)
    assert restored != data
    assert after == replace(header_of(restored, runs=4), transform=b"")
    again, stored_again = apply([fp8()], after, restored)
    assert undo([fp8()], again, stored_again) == (after, restored), "nothing more is lost"
    for before, now in zip(
        struct.iter_unpack("<H", data), struct.iter_unpack("<H", restored), strict=True
    ):
        wide, cast = (
            struct.unpack("<f", struct.pack("<I", one[0] << 16))[0] for one in (before, now)
        )
        assert abs(wide - cast) <= max(abs(wide) / 16, 2.0**-9)


def test_all_transforms_together() -> None:
    data = bfloat16(12_000)
    steps: list[Step] = [fp8(), zstd(), seal()]
    told, stored = apply(steps, header_of(data, runs=4), data)
    assert told.transform in (b"fp8+zstd+aesgcm", b"fp8+aesgcm")
    after, restored = undo(steps, told, stored)
    assert after == header_of(restored, runs=4)


@pytest.mark.parametrize(
    "data",
    [
        bfloat16(4096)[:-1],
        bfloat16(4096)[:-2],  # no two runs of it
        bfloat16(100),  # less than two blocks
        bfloat16(4096)[:-2] + struct.pack("<H", 0x7F80),  # an infinity
        bfloat16(4096)[:-2] + struct.pack("<H", 0x7FC0),  # no number
    ],
    ids=["odd", "uneven", "small", "infinity", "nan"],
)
def test_what_cannot_be_cast_is_kept_exactly(data: bytes) -> None:
    header = replace(header_of(data), run_digests=bytes(16))
    told, stored = apply([fp8()], header, data)
    assert told.transform == b""
    assert undo([fp8()], told, stored) == (header, data)


def test_only_namespaces_that_name_the_cast_are_cast() -> None:
    data = bfloat16(12_000)
    told, stored = apply([fp8()], header_of(data), data)
    nobody = Fp8Step(LossyNamespaces())
    with pytest.raises(Declined, match="namespace does not say so"):
        apply([nobody], header_of(data), data)
    with pytest.raises(Unreadable, match="nobody attached"):
        undo([nobody], told, stored)
    with pytest.raises(Unreadable, match="is cast to"):
        undo([fp8()], replace(told, stored_bytes=100), stored[:100])
