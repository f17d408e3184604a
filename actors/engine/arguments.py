"""Arguments of an engine's requests, as it gave them, turned into what the contract carries.

An engine is written against this client by hand, so a mistake must come back as a CallerError that names the argument,
and never as whatever the serialiser says of it (scenario B2). Bounds of the contract are checked here where the node
sees nothing of the argument, as of what is hashed into keys; others are the node's to check.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from numbers import Real
from typing import TypeVar

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.types import EXTRA_BYTES_MAX, REQUEST_ID_CHARS_MAX
from penstock.actors.keys import NO_EXTRAS

UINT32_MAX = 2**32 - 1
NODE_ID = re.compile(r"[a-z0-9.-]{1,63}")
NODE_ID_WORDS = "1 to 63 of a-z, 0-9, - and ."


T = TypeVar("T")


def read_instance(name: str, value: object, kind: type[T], *, what: str) -> T:
    """What must be of one class: `what` it is in the caller's words. Raises InvalidField."""
    if not isinstance(value, kind):
        raise InvalidField(name, f"must be {what}, not {_kind(value)}")
    return value


def read_count(name: str, value: object) -> int:
    """A number from 0 to 2**32 - 1; integers of NumPy too. Raises InvalidField."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidField(name, f"must be an integer, not {_kind(value)}") from None
    if not 0 <= count <= UINT32_MAX:
        raise InvalidField(name, f"must not be negative nor over {UINT32_MAX}, not {count}")
    return count


def read_bytes(name: str, value: object) -> bytes:
    """Bytes, or a buffer that says it holds them. Raises InvalidField."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidField(name, f"must be bytes, not {_kind(value)}")
    return bytes(value)


def read_request_id(value: object) -> str:
    """Text that has an encoding: no half of a surrogate pair. Raises InvalidField."""
    if not isinstance(value, str):
        raise InvalidField("request_id", f"must be a string, not {_kind(value)}")
    if len(value) > REQUEST_ID_CHARS_MAX:
        raise InvalidField(
            "request_id", f"has at most {REQUEST_ID_CHARS_MAX} characters, not {len(value)}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidField("request_id", "cannot be encoded as UTF-8") from None
    return value


def read_node_id(name: str, value: object) -> str:
    """The name of a node in its cluster. Raises InvalidField."""
    if not isinstance(value, str):
        raise InvalidField(name, f"must be a string, not {_kind(value)}")
    if NODE_ID.fullmatch(value) is None:
        raise InvalidField(name, f"must be the id of a node: {NODE_ID_WORDS}")
    return value


def read_transfer_ms(value: object) -> int:
    """Seconds that a push may take, in whole milliseconds, rounded up; None: 0, the node's default. Raises
    InvalidField."""
    if value is None:
        return 0
    if not isinstance(value, Real):
        raise InvalidField("transfer_s", f"must be seconds, not {_kind(value)}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not 0 < seconds <= UINT32_MAX / 1000:
        raise InvalidField(
            "transfer_s", f"must be above 0 and at most {UINT32_MAX // 1000} s, not {value}"
        )
    return math.ceil(seconds * 1000)


def read_extras(value: object) -> Mapping[int, bytes]:
    """What else enters the key of some chunks. Raises InvalidField."""
    if value is None:
        return NO_EXTRAS
    if not isinstance(value, Mapping):
        raise InvalidField("extras", f"must be a mapping, not {_kind(value)}")
    return {read_count("extras", chunk): _extra(chunk, extra) for chunk, extra in value.items()}


def _extra(chunk: object, value: object) -> bytes:
    name = f"extras[{chunk!r}]"
    extra = read_bytes(name, value)
    if len(extra) > EXTRA_BYTES_MAX:
        raise InvalidField(
            name,
            f"has at most {EXTRA_BYTES_MAX} bytes, not {len(extra)}: give a digest of what is longer",
        )
    return extra


def read_within(value: object) -> float | None:
    """Seconds to wait; what is below 0 has passed already, and is a miss. Raises InvalidField."""
    if value is None:
        return None
    if not isinstance(value, Real):
        raise InvalidField("within", f"must be seconds, not {_kind(value)}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidField("within", f"must be finite, not {seconds}: every wait has an end")
    return max(0.0, seconds)


def read_wait(value: object) -> float:
    """Seconds to wait where there is no default. Raises InvalidField."""
    seconds = read_within(value)
    if seconds is None:
        raise InvalidField("within", "must be seconds, not None: every wait has an end")
    return min(seconds, UINT32_MAX // 1000)


def read_pin_ms(value: object) -> int:
    """Seconds to keep something, in whole milliseconds, rounded up. Raises InvalidField."""
    if not isinstance(value, Real):
        raise InvalidField("pin_s", f"must be seconds, not {_kind(value)}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not 0 <= seconds <= UINT32_MAX / 1000:
        raise InvalidField("pin_s", f"must be 0 to {UINT32_MAX // 1000} s, not {value}")
    return math.ceil(seconds * 1000)


def _kind(value: object) -> str:
    return type(value).__name__
