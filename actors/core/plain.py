"""Records from plain JSON values, and back: bytes are hexadecimal, enums are names, tuples are arrays.

Strict: a key that is not a field, a field that is missing, or a value of another type is refused with
its path. A silently ignored key would be a difference that nobody sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import TypeVar, get_args, get_origin, get_type_hints

from penstock.actors.api.errors import InvalidField

T = TypeVar("T")


def from_plain(kind: type[T], value: object, path: str = "") -> T:
    """A `kind` (a dataclass of int, str, bytes, enums, tuples and such) from JSON's own values.

    Raises InvalidField with the path of what does not fit; and what `kind` itself raises.
    """
    if not isinstance(value, Mapping):
        raise InvalidField(path or "document", f"must be an object, not {_word(value)}")
    hints = get_type_hints(kind)
    known = {member.name: member for member in fields(kind)}  # type: ignore[arg-type]
    for name in value:
        if name not in known:
            below = _below(path, str(name))
            raise InvalidField(below, f"is not known here: one of {', '.join(known)}")
    read = {}
    for name, member in known.items():
        if name in value:
            read[name] = _value(hints[name], value[name], _below(path, name))
        elif member.default is MISSING and member.default_factory is MISSING:
            raise InvalidField(_below(path, name), "is missing")
    return kind(**read)


def to_plain(value: object) -> object:
    """What `from_plain` reads: nested dicts, lists, strings and integers."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if is_dataclass(value):
        return {member.name: to_plain(getattr(value, member.name)) for member in fields(value)}
    return value


def _value(kind: type, value: object, path: str) -> object:
    if is_dataclass(kind):
        return from_plain(kind, value, path)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InvalidField(path, f"must be an array, not {_word(value)}")
        item_kind = get_args(kind)[0]
        return tuple(_value(item_kind, item, f"{path}[{i}]") for i, item in enumerate(value))
    if kind is int:
        if type(value) is not int:
            raise InvalidField(path, f"must be an integer, not {_word(value)}")
        return value
    if not isinstance(value, str):
        raise InvalidField(path, f"must be a string, not {_word(value)}")
    if kind is bytes:
        return _hexadecimal(value, path)
    if issubclass(kind, Enum):
        if value not in kind.__members__:
            raise InvalidField(path, f"{value!r} is none of {', '.join(kind.__members__)}")
        return kind[value]
    assert kind is str, kind
    return value


def _hexadecimal(value: str, path: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise InvalidField(path, "must be hexadecimal digits, two for a byte") from None


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _word(value: object) -> str:
    """What JSON calls the type of `value`."""
    words = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return words.get(type(value), "null" if value is None else "a number")
