"""The Redis protocol (RESP 2): how commands are written, and how answers are read as they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from penstock.runtime.units import KIB, MIB

SMALL_BYTES = 64 * KIB  # read at a time where it is not known yet what comes
REPLY_BYTES_MAX = MIB  # of all that has no sink
DEPTH_MAX = 8  # arrays in arrays
CRLF = b"\r\n"

Data: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class RespError:
    """What the server refused: its first word alone is passed on, as the rest may name users and keys."""

    code: str
    text: str = field(repr=False)


Reply: TypeAlias = "bytes | int | RespError | list[Reply] | None"


def command(*words: str | bytes | tuple[memoryview, ...]) -> list[Data]:
    """As it is sent. A tuple is one word of several views, which are sent from where they lie."""
    pieces: list[Data] = []
    text = bytearray(b"*%d\r\n" % len(words))
    for word in words:
        if isinstance(word, tuple):
            text += b"$%d\r\n" % sum(map(len, word))
            pieces += [bytes(text), *word]
            text = bytearray(CRLF)
        else:
            data = word.encode() if isinstance(word, str) else word
            text += b"$%d\r\n%b\r\n" % (len(data), data)
    pieces.append(bytes(text))
    return pieces


class Nonsense(Exception):
    """What came is not of this protocol."""


class Reader:
    """What came and is not understood yet. Without a sink a reply is read when all of it is here."""

    def __init__(self) -> None:
        self.scratch = memoryview(bytearray(SMALL_BYTES))  # for what nobody wants
        self._data = bytearray(SMALL_BYTES)
        self._start = 0
        self._end = 0  # data[start:end] came

    @property
    def has_some(self) -> bool:
        return self._start < self._end

    @property
    def begins_bulk(self) -> bool:
        return self.has_some and self._data[self._start] == ord("$")

    def room(self) -> memoryview:
        if self._start:
            self._data[: self._end - self._start] = self._data[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        if self._end == len(self._data):
            if len(self._data) >= REPLY_BYTES_MAX:
                raise Nonsense(f"a reply of more than {REPLY_BYTES_MAX} bytes")
            self._data = self._data + bytes(len(self._data))
        return memoryview(self._data)[self._end :]

    def filled(self, count: int) -> None:
        self._end += count

    def take(self, target: memoryview, count_max: int) -> int:
        count = min(self._end - self._start, count_max, len(target))
        target[:count] = memoryview(self._data)[self._start : self._start + count]
        self._start += count
        return count

    def bulk_size(self) -> int | None:
        """Of the bulk string that begins here, whose first line is taken; -1: there is none. None: not all here yet."""
        line = self._line(self._start)
        if line is None:
            return None
        text, self._start = line
        return _number(text[1:])

    def skip_end(self) -> bool:
        """Past the end of a bulk string; whether it was here."""
        if self._end - self._start < len(CRLF):
            return False
        if not self._data.startswith(CRLF, self._start):
            raise Nonsense("a string that does not end where it said")
        self._start += len(CRLF)
        return True

    def reply(self) -> tuple[bool, Reply]:
        """Whether a whole one is here, and then what it says."""
        if not self.has_some:
            return False, None
        parsed = self._parse(self._start, DEPTH_MAX)
        if parsed is None:
            return False, None
        reply, self._start = parsed
        return True, reply

    def _parse(self, at: int, depth: int) -> tuple[Reply, int] | None:
        """A reply, and where the next one begins; None: it is not all here."""
        line = self._line(at)
        if line is None:
            return None
        text, after = line
        match text[:1]:
            case b"+":
                return text[1:], after
            case b"-":
                said = text[1:].decode("utf-8", "replace")
                return RespError(said.partition(" ")[0], said), after
            case b":":
                return _number(text[1:]), after
            case b"$":
                return self._parse_bulk(_number(text[1:]), after)
            case b"*" if depth:
                return self._parse_array(_number(text[1:]), after, depth - 1)
        raise Nonsense("an unknown kind of reply")

    def _parse_bulk(self, size: int, at: int) -> tuple[Reply, int] | None:
        if size < 0:
            return None, at
        if size > REPLY_BYTES_MAX:
            raise Nonsense(f"a string of {size} bytes where none was asked for")
        if at + size + len(CRLF) > self._end:
            return None
        return bytes(self._data[at : at + size]), at + size + len(CRLF)

    def _parse_array(self, count: int, at: int, depth: int) -> tuple[Reply, int] | None:
        if count < 0:
            return None, at
        replies: list[Reply] = []
        for _ in range(count):
            parsed = self._parse(at, depth)
            if parsed is None:
                return None
            replies.append(parsed[0])
            at = parsed[1]
        return replies, at

    def _line(self, at: int) -> tuple[bytes, int] | None:
        end = self._data.find(CRLF, at, self._end)
        if end < 0:
            if self._end - at > SMALL_BYTES:
                raise Nonsense("a line without an end")
            return None
        return bytes(self._data[at:end]), end + len(CRLF)


def _number(text: bytes) -> int:
    if not text.removeprefix(b"-").isdigit() or len(text) > 20:
        raise Nonsense("no number where one belongs")
    return int(text)
