"""One encoding of values as bytes: equal values give equal bytes, different values different ones.

    value  := 'n'                          None
            | 'i' u64                      integer, 0 to 2**64 - 1
            | 'b' length data              bytes
            | 's' length data              string, UTF-8
            | 't' length value*            tuple
            | 'e' name name                enum: its type, its member
            | 'r' name length (name value)*  record: its type, its fields in order of declaration
    length := u64, u64 little-endian; name := length data

Every value tells its own length before its contents, so that the same bytes cannot be cut in two
ways: ("ab", "c") and ("a", "bc") differ. A value can be read back, which is how the tests know.
Types are told apart by their names without the module: those of one encoding must not share one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache

_U64 = struct.Struct("<Q")
INTEGER_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Difference:
    """The first part in which two values differ."""

    path: str  # "groups[0].dtype"; "len(groups)" where one tuple begins the other
    ours: object
    theirs: object


def encode(value: object) -> bytes:
    """The canonical bytes of `value`: None, int, bytes, str, Enum, tuple, or dataclass.

    Raises TypeError for any other type (bool and float too) and ValueError for an integer out of
    range or a string that is no Unicode text.
    """
    parts: list[bytes] = []
    _append(parts, value)
    return b"".join(parts)


def pieces(value: object, *, depth: int) -> Iterator[bytes]:
    """What `encode` joins, a piece for each part so many levels below `value`: for who must not take long at a time."""
    if depth and isinstance(value, tuple):
        yield b"t" + _U64.pack(len(value))
        for item in value:
            yield from pieces(item, depth=depth - 1)
    elif depth and is_dataclass(value) and not isinstance(value, type):
        head, names = _form(type(value))
        yield head
        for name, encoded in names:
            yield encoded
            yield from pieces(getattr(value, name), depth=depth - 1)
    else:
        yield encode(value)


def _append(parts: list[bytes], value: object) -> None:
    if type(value) is int:  # a bool is none
        if not 0 <= value <= INTEGER_MAX:
            raise ValueError(f"{value} is not an integer from 0 to 2**64 - 1")
        parts += (b"i", _U64.pack(value))
    elif value is None:
        parts.append(b"n")
    elif isinstance(value, Enum):
        parts += (b"e", encode_name(type(value).__name__), encode_name(value.name))
    elif isinstance(value, bytes):
        parts += (b"b", _U64.pack(len(value)), value)
    elif isinstance(value, str):
        data = value.encode()
        parts += (b"s", _U64.pack(len(data)), data)
    elif isinstance(value, tuple):
        parts += (b"t", _U64.pack(len(value)))
        for item in value:
            _append(parts, item)
    elif is_dataclass(value) and not isinstance(value, type):
        head, names = _form(type(value))
        parts.append(head)
        for name, encoded in names:
            parts.append(encoded)
            _append(parts, getattr(value, name))
    else:
        raise TypeError(f"{type(value).__name__} has no canonical form")


def encode_name(name: str) -> bytes:
    """A name as it stands in a record, before its field's value."""
    data = name.encode()
    return _U64.pack(len(data)) + data


@cache
def _form(kind: type) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """How a record of this type begins; its fields, and their names encoded."""
    names = tuple((member.name, encode_name(member.name)) for member in fields(kind))
    return b"r" + encode_name(kind.__name__) + _U64.pack(len(names)), names


def first_difference(ours: object, theirs: object, path: str = "") -> Difference | None:
    """The first part in which two values of one shape differ; None when they are equal."""
    if is_dataclass(ours) and type(ours) is type(theirs):
        for member in fields(ours):
            below = f"{path}.{member.name}" if path else member.name
            mine, other = getattr(ours, member.name), getattr(theirs, member.name)
            if (inside := first_difference(mine, other, below)) is not None:
                return inside
        return None
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
            if (inside := first_difference(mine, other, f"{path}[{index}]")) is not None:
                return inside
        ours, theirs, path = len(ours), len(theirs), f"len({path})"
    return None if encode(ours) == encode(theirs) else Difference(path, ours, theirs)
