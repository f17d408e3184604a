"""A look at a message before it is parsed: how many parts the parser would make of it.

A few megabytes can hold millions of empty submessages or one-byte integers, and parsing makes an object, or an entry of
a list, of each: hundreds of milliseconds in one step of the loop. The scan counts them step by step and refuses what is
over its bound. It skips the contents of byte fields, so a long prompt costs no more than a short one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from anyio.lowlevel import checkpoint
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from penstock.actors.api.errors import TooLarge
from penstock.runtime.units import KIB

Parsed = TypeVar("Parsed", bound=Message)

UNSCANNED_BYTES_MAX = 64 * KIB  # parsed in well under a millisecond, whatever it holds
FIELDS_A_STEP = 1024
VARINT_BYTES_MAX = 10
INDEX_BYTES = 5  # of an uint32 as a varint, at most
HELLO_FIELDS_MAX = (
    16384  # more than the bounds of a Hello allow: those are told by the path of the field
)

_PACKABLE = frozenset(
    {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_INT32,
     FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_ENUM}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a message type the parser takes apart: by field number, its submessages and its packed integers."""

    messages: Mapping[int, Shape]
    packed: frozenset[int]


@dataclass(frozen=True, slots=True)
class ScanBounds:
    """`fields_max`: in all submessages together. `packed_bytes_max`: of one list of packed integers."""

    fields_max: int
    packed_bytes_max: int

    @staticmethod
    def of(*, chunks_max: int, objects_max: int) -> ScanBounds:
        """What a request within these limits never exceeds: an extra of a chunk has three fields, an index one."""
        count = max(chunks_max, objects_max)
        return ScanBounds(4 * count + HELLO_FIELDS_MAX, INDEX_BYTES * count)


@cache
def shape_of(kind: Descriptor) -> Shape:
    """The shape of a message type that does not contain itself."""
    messages = {one.number: shape_of(one.message_type) for one in kind.fields if one.message_type}
    packed = {one.number for one in kind.fields if one.is_packed and one.cpp_type in _PACKABLE}
    return Shape(messages, frozenset(packed))


async def parse(raw: bytes, kind: type[Parsed], shape: Shape, bounds: ScanBounds) -> Parsed:
    """The message, scanned first. Others get their turn after a large one was parsed, which copies all of it.

    Raises TooLarge, DecodeError.
    """
    await scan(raw, shape, bounds)
    parsed = kind.FromString(raw)
    if len(raw) > UNSCANNED_BYTES_MAX:
        await checkpoint()
    return parsed


async def scan(raw: bytes, shape: Shape, bounds: ScanBounds) -> None:
    """Others get their turn while a message of many fields is looked through. Raises TooLarge.

    What is malformed is left to the parser, which stops where we do.
    """
    if len(raw) <= UNSCANNED_BYTES_MAX:
        return
    await checkpoint()  # taking so many bytes from the transport was a step of its own
    at, end, fields = 0, len(raw), 0
    around: list[
        tuple[int, Shape]
    ] = []  # of the enclosing messages: where each ends, and its shape
    while True:
        while at == end and around:
            end, shape = around.pop()
        if at >= end:
            return
        fields += 1
        if fields > bounds.fields_max:
            raise TooLarge("message", f"more than {bounds.fields_max} fields and entries of lists")
        if fields % FIELDS_A_STEP == 0:
            await checkpoint()
        key, at = _varint(raw, at)
        match key & 7:
            case 0:
                at = _varint(raw, at)[1]
            case 1:
                at += 8
            case 2:
                length, at = _varint(raw, at)
                if at + length > end:
                    return
                if (inner := shape.messages.get(key >> 3)) is not None:
                    around.append((end, shape))
                    end, shape = at + length, inner
                    continue
                if key >> 3 in shape.packed and length > bounds.packed_bytes_max:
                    problem = f"a list of integers has at most {bounds.packed_bytes_max} bytes"
                    raise TooLarge("message", f"{problem}, not {length}")
                at += length
            case 5:
                at += 4
            case 3 | 4:  # groups: their fields are counted as if they were ours
                pass
            case _:
                return


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where it ends; beyond the end of `raw` when there is none."""
    value = shift = 0
    for byte in raw[at : at + VARINT_BYTES_MAX]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, len(raw) + 1
