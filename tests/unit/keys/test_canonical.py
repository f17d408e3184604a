"""The canonical encoding: no two values share one, and each can be read back."""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.core import canonical
from penstock.actors.core.namespace import Attention, GroupShard, Namespace, ShardSizes


class Colour(Enum):
    FULL = 1


@dataclass(frozen=True)
class Sizes:
    """Another record with the fields of ShardSizes."""

    tp: int = 1
    pp: int = 1
    dcp: int = 1
    pcp: int = 1


@dataclass(frozen=True)
class Pair:
    """A record with records inside."""

    first: bytes
    second: tuple[GroupShard, ...]


def test_records_and_enums_are_told_apart_by_their_types() -> None:
    """Seen to fail with an enum encoded as its bare name, and a record without its type."""
    values = ["FULL", Attention.FULL, Colour.FULL, ShardSizes(), Sizes(), ("tp", 1)]
    assert len({canonical.encode(value) for value in values}) == len(values)
    assert canonical.first_difference((Attention.FULL,), ("FULL",)) is not None


SHARDS = st.builds(GroupShard, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
LEAVES = [
    st.none(),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=5),
    st.text(max_size=5),
    st.sampled_from([*Attention, Colour.FULL, ShardSizes(), Sizes()]),
    SHARDS,
    st.builds(Pair, st.binary(max_size=3), st.lists(SHARDS, max_size=2).map(tuple)),
]
VALUES = st.recursive(
    st.one_of(LEAVES), lambda inside: st.lists(inside, max_size=4).map(tuple), max_leaves=12
)


@given(value=VALUES)
def test_an_encoding_can_be_read_back_so_no_two_values_share_one(value: object) -> None:
    encoded = canonical.encode(value)
    assert all(b"".join(canonical.pieces(value, depth=depth)) == encoded for depth in range(4))
    decoded, rest = decode(encoded)
    assert rest == b""
    assert decoded == plain(value)


@given(ours=VALUES, theirs=VALUES)
def test_no_encoding_begins_another(ours: object, theirs: object) -> None:
    if ours != theirs:
        assert not canonical.encode(ours).startswith(canonical.encode(theirs))


@pytest.mark.parametrize("value", [True, 1.5, [1], {"a": 1}, Namespace])
def test_a_value_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        canonical.encode(value)


@pytest.mark.parametrize("value", [-1, 2**64, "\ud800"])
def test_a_value_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"2\*\*64|surrogates"):
        canonical.encode(value)


def plain(value: object) -> object:
    """`value` with records as (type, {name: value}) and enum members as (type, name), in lists."""
    if isinstance(value, Enum):
        return [type(value).__name__, value.name]
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if is_dataclass(value):
        members = {member.name: plain(getattr(value, member.name)) for member in fields(value)}
        return [type(value).__name__, members]
    return value


def decode(data: bytes) -> tuple[object, bytes]:
    """The value at the start of `data`, and what follows it."""
    tag, data = data[:1], data[1:]
    if tag == b"n":
        return None, data
    if tag in {b"e", b"r"}:
        return decode_typed(tag, data)
    number, data = struct.unpack("<Q", data[:8])[0], data[8:]
    if tag == b"i":
        return number, data
    if tag in {b"b", b"s"}:
        content = data[:number]
        return content if tag == b"b" else content.decode(), data[number:]
    assert tag == b"t"
    items: list[object] = []
    for _ in range(number):
        value, data = decode(data)
        items.append(value)
    return tuple(items), data


def decode_typed(tag: bytes, data: bytes) -> tuple[object, bytes]:
    """What begins with the name of its type: an enum's member, or a record."""
    kind, data = decode_name(data)
    if tag == b"e":
        name, data = decode_name(data)
        return [kind, name], data
    count, data = struct.unpack("<Q", data[:8])[0], data[8:]
    members: dict[str, object] = {}
    for _ in range(count):
        name, data = decode_name(data)
        members[name], data = decode(data)
    return [kind, members], data


def decode_name(data: bytes) -> tuple[str, bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return data[8 : 8 + size].decode(), data[8 + size :]
