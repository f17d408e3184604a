"""What the fuzzer feeds: a sequence of length-prefixed steps, most of them messages of an engine.

    input   = order u8, profile u8, step*
    step    = op u8, length u16 (little-endian), payload
    op      = stream in the low two bits, kind above them

Every string of bytes is an input: numbers are taken modulo, a step that is cut short is taken as far as it goes. So a
mutation anywhere stays an input that does something.

Ids of leases and tickets are drawn at run time. An input names them by *symbols* of the same length, which are replaced
in the raw bytes of a message before it is sent: lengths inside the message stay right.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

STREAMS = 4
STEPS_MAX = 64  # of one input; what follows is not played
_STEP = struct.Struct("<BH")
PAYLOAD_BYTES_MAX = 65535


class Kind(enum.Enum):
    """What happens in one step. New ones go to the end, or the corpus changes its meaning."""

    MESSAGE = enum.auto()  # the payload is sent; a stream that is not open is opened first
    HANG_UP = enum.auto()  # the client half-closes
    CANCEL = enum.auto()  # the client cancels the call
    WAIT = enum.auto()  # time passes: payload[:2] little-endian in units of 10 ms
    STOP_READING = enum.auto()
    READ_ON = enum.auto()
    ENTER_ARENA = enum.auto()  # the session's secret is shown at the arena socket
    PROCESS_EXITS = enum.auto()  # the pidfd of the process that entered fires
    PURGE = enum.auto()  # an operator purges L1
    GROW = (
        enum.auto()
    )  # as MESSAGE, but what can be long in it is made 2 ** (payload[0] % 16) as long


KINDS = tuple(Kind)


class Profile(enum.Enum):
    """The limits of the node that the input is played against."""

    SMALL = "bounds so low that a few messages reach each of them"
    SHIPPED = "the defaults of the configuration, but for the arena"


PROFILES = tuple(Profile)


@dataclass(frozen=True, slots=True)
class Step:
    kind: Kind
    stream: int = 0
    payload: bytes = b""

    @property
    def wait_s(self) -> float:
        return int.from_bytes(self.payload[:2], "little") / 100


@dataclass(frozen=True, slots=True)
class Input:
    steps: tuple[Step, ...]
    order: int = 0  # seed of the order in which tasks that are ready run
    profile: Profile = Profile.SMALL

    @staticmethod
    def decode(data: bytes) -> Input:
        head = data[:2].ljust(2, b"\0")
        return Input(tuple(_steps(data)), head[0], PROFILES[head[1] % len(PROFILES)])

    def encode(self) -> bytes:
        head = bytes([self.order, PROFILES.index(self.profile)])
        return head + b"".join(_encoded(step) for step in self.steps)

    def with_steps(self, steps: list[Step]) -> Input:
        return replace(self, steps=tuple(steps[:STEPS_MAX]))


def _steps(data: bytes) -> Iterator[Step]:
    at = 2
    for _ in range(STEPS_MAX):
        if at + _STEP.size > len(data):
            return
        op, length = _STEP.unpack_from(data, at)
        at += _STEP.size
        yield Step(KINDS[(op >> 2) % len(KINDS)], op % STREAMS, data[at : at + length])
        at += length


def _encoded(step: Step) -> bytes:
    op = KINDS.index(step.kind) << 2 | step.stream
    payload = step.payload[:PAYLOAD_BYTES_MAX]
    return _STEP.pack(op, len(payload)) + payload


# Symbols.


class Named(enum.Enum):
    """What a symbol stands for."""

    TICKET = ord("t")
    READ_LEASE = ord("r")
    WRITE_LEASE = ord("w")
    EPOCH = ord("e")
    SECRET = ord("s")  # the only one of 32 bytes
    TRANSFER = ord("p")


_MARK = b"\x1fid not known\x1f"  # 14 bytes; kind and index make it an id of 16
_FILL = b"\x1f" * 16  # makes a secret of 32
_SYMBOL = re.compile(re.escape(_MARK) + b"([\x00-\xff])([\x00-\xff])(" + re.escape(_FILL) + b")?")
_KINDS = {one.value: one for one in Named}


def symbol(named: Named, nth_newest: int = 0) -> bytes:
    """The bytes that stand for the nth newest id of a kind, counted round and round."""
    short = _MARK + bytes([named.value, nth_newest])
    return short + _FILL if named is Named.SECRET else short


def has_symbol(raw: bytes) -> bool:
    return _MARK in raw


def resolve_symbols(raw: bytes, find: Callable[[Named, int], bytes | None]) -> bytes:
    """`raw` with every symbol replaced by what `find` knows; what it does not know is left, an id of nobody."""

    def substitute(match: re.Match[bytes]) -> bytes:
        named = _KINDS.get(match[1][0])
        known = None if named is None else find(named, match[2][0])
        return match[0] if known is None else (known + (match[3] or b""))[: len(match[0])]

    return _SYMBOL.sub(substitute, raw)
