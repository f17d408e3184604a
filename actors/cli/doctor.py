"""`penstock doctor`: says why there were no hits.

`penstock doctor keys A B` compares what was stored with what was asked. A and B are JSON files:

    {"namespace": {...}, "tokens": [1, 2, ...], "keys": ["hex", ...], "extras": {"3": "hex"}}

with the namespace's fields by their names, bytes in hexadecimal, and tokens, keys or both. `Client.record` makes
one, and `penstock demo --record-keys DIR` writes one for each of its engines.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.cli.main import Subparsers
from penstock.actors.core.key_diff import Cause, Chain, compare
from penstock.actors.core.namespace import Namespace
from penstock.actors.core.plain import from_plain
from penstock.actors.keys import chunk_keys
from penstock.runtime.errors import CallerError

T = TypeVar("T")
_HEXADECIMAL = re.compile(r"([0-9a-fA-F]{2})*")
_CHUNK = re.compile(r"0|[1-9][0-9]{0,9}")  # one way to write each; no prompt has more digits
_PARTS = ("namespace", "tokens", "keys", "extras")


class UnreadableRecord(CallerError):
    """Yours: the file holds no record of a key chain."""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("doctor", help="say why there were no hits")
    topics = parser.add_subparsers(dest="topic", required=True, metavar="TOPIC")
    keys = topics.add_parser(
        "keys", help="name the first part of the namespace or the first chunk in which two differ"
    )
    keys.add_argument("a", metavar="A", type=Path, help="JSON: namespace, and tokens or keys")
    keys.add_argument("b", metavar="B", type=Path, help="the same of the other")
    keys.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Exit status 0: the same; 1: they differ. Raises UnreadableRecord."""
    finding = compare(read_chain(args.a, name="A"), read_chain(args.b, name="B"))
    if args.json:
        found = {"cause": finding.cause.name, "chunk": finding.chunk, "text": finding.sentence}
        print(json.dumps(found))
    else:
        print(f"{finding.cause.value}\n  {finding.sentence}")
    return 0 if finding.cause is Cause.NOTHING else 1


def read_chain(path: Path, *, name: str) -> Chain:
    """The record in `path`. Raises UnreadableRecord, naming the file and the field."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as problem:
        raise UnreadableRecord(f"{path}: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise UnreadableRecord(f"{path}: is no JSON: {problem}") from problem
    try:
        return _chain(document, name)
    except InvalidField as problem:
        raise UnreadableRecord(f"{path}: {problem}") from problem


def _chain(document: object, name: str) -> Chain:
    if not isinstance(document, dict):
        raise InvalidField("document", "must be an object")
    for part in document:
        if part not in _PARTS:
            raise InvalidField(str(part), f"is not known here: one of {', '.join(_PARTS)}")
    namespace = from_plain(Namespace, document.get("namespace"), "namespace")
    tokens = _part(document, "tokens", list, tuple)
    keys = _part(document, "keys", list, _keys)
    extras = _part(document, "extras", dict, _extras) or {}
    if tokens is None:
        if keys is None:
            raise InvalidField("document", "has neither tokens nor keys: give one")
        return Chain(name, namespace, keys)
    chain = chunk_keys(namespace.digest(), tokens, namespace.chunk_tokens, extras=extras)
    followed = tuple(chain[at : at + KEY_BYTES] for at in range(0, len(chain), KEY_BYTES))
    recorded = followed if keys is None else keys
    return Chain(name, namespace, recorded, followed, tokens, extras)


def _part(
    document: Mapping[str, object], part: str, kind: type, read: Callable[[Any], T]
) -> T | None:
    value = document.get(part)
    if value is None:
        return None
    if not isinstance(value, kind):
        raise InvalidField(part, f"must be {'an array' if kind is list else 'an object'}")
    return read(value)


def _keys(given: list[object]) -> tuple[bytes, ...]:
    keys = tuple(_bytes(f"keys[{index}]", key) for index, key in enumerate(given))
    for index, key in enumerate(keys):
        if len(key) != KEY_BYTES:
            raise InvalidField(f"keys[{index}]", f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return keys


def _extras(given: dict[str, object]) -> dict[int, bytes]:
    for chunk in given:
        if not _CHUNK.fullmatch(chunk):
            raise InvalidField("extras", f"{chunk[:40]!r} is no chunk number")
    return {int(chunk): _bytes(f"extras.{chunk}", extra) for chunk, extra in given.items()}


def _bytes(path: str, value: object) -> bytes:
    if isinstance(value, str) and _HEXADECIMAL.fullmatch(value):
        return bytes.fromhex(value)
    raise InvalidField(path, "must be a string of hexadecimal digits, two for a byte")
