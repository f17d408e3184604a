"""The messages of a data stream over gRPC: raw bytes, little-endian, put together and taken apart here.

    SHOW    secret 32                      first, from the dialer
    TAKEN                                  first, from the listener: this stream is the connection
    PIECES  token 16, then parts of pieces
    GONE    token 16                       what was sent to this landing found none

A part: number u64, slot u32, size u32 of what follows, offset u64 of the piece in its slot, total u64 of the piece,
at u64 of this part in the piece; then `size` bytes. The parts of a piece come in their order; between them may come
parts of others.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.runtime.channel import SECRET_BYTES, Piece

TOKEN_BYTES = 16
_PART = struct.Struct("<QIIQQQ")
PART_BYTES = _PART.size
HEAD_BYTES = 1 + TOKEN_BYTES
PARTS_MAX = 256  # of one message: each costs a few microseconds of one step
SPLIT_BYTES_MIN = 4096  # a piece is not cut for less than this


class Word(enum.IntEnum):
    """The first byte of a message."""

    SHOW = 1
    TAKEN = 2
    PIECES = 3
    GONE = 4


class Malformed(ValueError):
    """Theirs: no message of this protocol."""


@dataclass(slots=True)  # a frozen one takes four times as long to make, and there are many
class Part:
    """As it came."""

    number: int
    slot: int
    offset: int  # of the piece
    total: int  # of the piece
    at: int  # at <= total - len(payload)
    payload: memoryview


class Pieces:
    """What is left of the pieces of one send, message by message. Holds them until the last one is taken."""

    def __init__(self, token: bytes, pieces: Sequence[Piece], chunk_bytes: int) -> None:
        self._head = bytes((Word.PIECES,)) + token
        self._pieces = pieces
        self._chunk_bytes = chunk_bytes
        self._next = 0  # of pieces
        self._at = 0  # in it

    def is_empty(self) -> bool:
        return self._next == len(self._pieces)

    def forget(self) -> None:
        """Nothing is read any more."""
        self._pieces, self._next = (), 0

    def take(self) -> tuple[bytes, int, int]:
        """The next message (at most the chunk's bytes and what is around them), pieces that are whole with it, and
        their bytes."""
        assert not self.is_empty()
        message: list[bytes | memoryview] = [self._head]
        room, parts, whole, whole_bytes = self._chunk_bytes, 0, 0, 0
        while self._next < len(self._pieces):
            piece = self._pieces[self._next]
            total = piece.payload.nbytes
            left = total - self._at
            if parts == PARTS_MAX or (parts and room < PART_BYTES + min(left, SPLIT_BYTES_MIN)):
                break
            parts += 1
            size = min(left, room)
            message.append(
                _PART.pack(piece.number, piece.slot, size, piece.offset, total, self._at)
            )
            message.append(piece.payload[self._at : self._at + size])
            room -= size + PART_BYTES
            if size < left:
                self._at += size
                break
            self._next, self._at = self._next + 1, 0
            whole, whole_bytes = whole + 1, whole_bytes + total
        if self.is_empty():
            self.forget()
        return b"".join(message), whole, whole_bytes


def show(secret: bytes) -> bytes:
    return bytes((Word.SHOW,)) + secret


def shown(raw: bytes) -> bytes:
    """The secret of a first message. Raises Malformed."""
    if len(raw) != 1 + SECRET_BYTES or raw[0] != Word.SHOW:
        raise Malformed("the first message shows no secret")
    return raw[1:]


def gone(token: bytes) -> bytes:
    return bytes((Word.GONE,)) + token


def token_of(raw: bytes) -> bytes:
    """Of a message of PIECES or GONE. Raises Malformed."""
    token = raw[1:HEAD_BYTES]
    if len(token) != TOKEN_BYTES:
        raise Malformed("a message names no landing")
    return token


def parts_of(raw: bytes) -> list[Part]:
    """Of a message of PIECES, in their order. Raises Malformed."""
    view, position = memoryview(raw), HEAD_BYTES
    parts: list[Part] = []
    while position < len(raw):
        if len(raw) - position < PART_BYTES:
            raise Malformed("a message ends within the head of a part")
        number, slot, size, offset, total, at = _PART.unpack_from(raw, position)
        begin = position + PART_BYTES
        position = begin + size
        if position > len(raw):
            raise Malformed("a message ends within a part")
        if number >= 1 << 63 or at + size > total:
            raise Malformed("a part does not lie within its piece")
        if len(parts) == PARTS_MAX:
            raise Malformed(f"a message has more than {PARTS_MAX} parts")
        parts.append(Part(number, slot, offset, total, at, view[begin:position]))
    return parts
