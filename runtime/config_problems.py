"""What msgspec says of a value that does not fit, in words of whoever wrote it: with what it may be instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")
_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`")
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value (.*)")
_NO_MATCH = re.compile(r"Expected `str` matching regex .*")


def explained(
    kind: type[msgspec.Struct], tree: object, key: tuple[str, ...], problem: str
) -> tuple[tuple[str, ...], str]:
    """The key that is at fault, which is `key` or one of it, and what is wrong with it.

    `tree`: the plain values that do not make a `kind`.
    """
    if unknown := _UNKNOWN_FIELD.fullmatch(problem):
        name = unknown[1]
        return (*key, name), f"there is no such key{_suggestion(kind, tree, key, name)}"
    told = problem[:1].lower() + problem[1:]
    told = told.replace("`array`", "a list").replace("`object`", "keys and values")
    told = told.replace("`str | array`", "`str` or a list")
    if missing := _MISSING_FIELD.fullmatch(problem):
        tags = _tags(_type_at(kind, tree, key), missing[1])
        return key, f"{told}: {_one_of(tags)}" if tags else told
    if found := _NO_CHOICE.fullmatch(problem):
        choices = _choices(kind, tree, key)
        return key, f"{found[1]} is not {_one_of(choices)}" if choices else told
    if _NO_MATCH.fullmatch(problem) and (wanted := _description(_type_at(kind, tree, key))):
        return key, f"must be {wanted}"
    return key, told


def _one_of(choices: Sequence[str]) -> str:
    return f"one of {', '.join(choices)}"


def _suggestion(kind: type[msgspec.Struct], tree: object, key: tuple[str, ...], name: str) -> str:
    """`; did you mean ...?` if a field of the struct at `key` looks like `name`."""
    struct = _chosen(_type_at(kind, tree, key), _value_at(tree, key))
    if not isinstance(struct, inspect.StructType):
        return ""
    known = [field.encode_name for field in struct.fields]
    by_small = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), by_small, n=1)
    if close:
        return f"; did you mean {'.'.join([*key, by_small[close[0]]])}?"
    return f"; there are {', '.join(known)}"


def _choices(kind: type[msgspec.Struct], tree: object, key: tuple[str, ...]) -> list[str]:
    found = _chosen(_type_at(kind, tree, key), None)
    if isinstance(found, inspect.EnumType):
        return [str(one.value) for one in found.cls]
    return _tags(_type_at(kind, tree, key[:-1]), key[-1]) if key else []


def _tags(found: inspect.Type | None, field: str) -> list[str]:
    """What tells the structs of a union apart, if `field` does."""
    types = found.types if isinstance(found, inspect.UnionType) else (found,)
    structs = [one for one in types if isinstance(one, inspect.StructType)]
    return [str(one.tag) for one in structs if one.tag_field == field]


def _description(found: inspect.Type | None) -> str:
    """What a pattern stands for, if its field says so."""
    told = found.extra_json_schema if isinstance(found, inspect.Metadata) else None
    return str((told or {}).get("description", ""))


def _type_at(kind: type[msgspec.Struct], tree: object, key: tuple[str, ...]) -> inspect.Type | None:
    """None: nobody can say."""
    found: inspect.Type | None = inspect.type_info(kind)
    value: Any = tree
    for part in key:
        found = _below(_chosen(found, value), part)
        value = _value_at(value, (part,))
    return found


def _below(found: inspect.Type | None, part: str) -> inspect.Type | None:
    match found:
        case inspect.StructType():
            return next((one.type for one in found.fields if one.encode_name == part), None)
        case inspect.ListType() | inspect.VarTupleType():
            return found.item_type
        case inspect.DictType():
            return found.value_type
        case _:
            return None


def _chosen(found: inspect.Type | None, value: object) -> inspect.Type | None:
    """Of a union what `value` is meant to be."""
    if isinstance(found, inspect.Metadata):
        found = found.type
    if not isinstance(found, inspect.UnionType):
        return found
    types = [one for one in found.types if not isinstance(one, inspect.NoneType)]
    if len(types) == 1:
        return types[0]
    for one in types:
        if (
            isinstance(one, inspect.StructType)
            and isinstance(value, dict)
            and one.tag_field is not None
            and value.get(one.tag_field) == one.tag
        ):
            return one
    return next((one for one in types if not isinstance(one, inspect.StructType)), None)


def _value_at(value: Any, key: tuple[str, ...]) -> Any:
    """None: there is none."""
    for part in key:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
