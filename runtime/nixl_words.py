"""What NIXL endpoints say to each other by notifications, and what a grant holds. Little-endian; written and read here.

    word u8, connection 16, then
    SHOW    secret 32, the dialer's metadata         first; TAKEN answers it
    TAKEN
    ARRIVED landing u64, (number u64, bytes u64) each  pieces that are whole in their slots
    CLOSE   landing u64                               write there no more; CLOSED answers when nothing does
    CLOSED  landing u64
    END                                               whoever says it writes nothing on this connection any more

A grant: connection 16, landing u64, bytes of metadata u32, slots u32, (address u64, size u64) each, metadata.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from penstock.runtime.channel import GRANT_BYTES_MAX, SECRET_BYTES

CONNECTION_BYTES = 16
_WORD = struct.Struct("<B16s")
_NUMBER = struct.Struct("<Q")
_GRANT = struct.Struct("<16sQII")
_PAIR = struct.Struct("<QQ")
_OFFER_MARK = b"PNX1"
_SUM_BYTES = 8
PIECES_MAX = 128  # of one notification


class Word(enum.IntEnum):
    """The first byte."""

    SHOW = 1
    TAKEN = 2
    ARRIVED = 3
    CLOSE = 4
    CLOSED = 5
    END = 6


class Unreadable(ValueError):
    """Theirs: nothing that this protocol knows."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One notification, taken apart."""

    word: Word
    connection: bytes
    landing: int = 0
    pieces: tuple[tuple[int, int], ...] = ()  # number and bytes
    secret: bytes = field(default=b"", repr=False)
    metadata: bytes = field(default=b"", repr=False)


def say(word: Word, connection: bytes, landing: int | None = None) -> bytes:
    raw = _WORD.pack(word, connection)
    return raw if landing is None else raw + _NUMBER.pack(landing)


def show(connection: bytes, secret: bytes, metadata: bytes) -> bytes:
    return say(Word.SHOW, connection) + secret + metadata


def arrived(connection: bytes, landing: int, pieces: Sequence[tuple[int, int]]) -> bytes:
    assert len(pieces) <= PIECES_MAX, len(pieces)
    return say(Word.ARRIVED, connection, landing) + b"".join(_PAIR.pack(*one) for one in pieces)


def heard(raw: bytes) -> Heard:
    """Raises Unreadable."""
    try:
        number, connection = _WORD.unpack_from(raw)
        word = Word(number)
        rest = raw[_WORD.size :]
        if word is Word.SHOW:
            if len(rest) <= SECRET_BYTES:
                raise Unreadable("no secret is shown")
            return Heard(word, connection, secret=rest[:SECRET_BYTES], metadata=rest[SECRET_BYTES:])
        if word in (Word.TAKEN, Word.END):
            return Heard(word, connection)
        (landing,) = _NUMBER.unpack_from(rest)
        rest = rest[_NUMBER.size :]
        if word is Word.ARRIVED:
            return Heard(word, connection, landing, tuple(_PAIR.iter_unpack(rest)))
        return Heard(word, connection, landing)
    except (struct.error, ValueError) as error:
        raise Unreadable(f"{error}") from None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a sender must know of a landing."""

    connection: bytes
    landing: int
    slots: tuple[tuple[int, int], ...]  # address and size
    metadata: bytes = b""  # of memory that the peers' handshake did not tell of

    def encoded(self) -> bytes:
        """Raises ValueError when it would be too large: give fewer slots."""
        head = _GRANT.pack(self.connection, self.landing, len(self.metadata), len(self.slots))
        raw = head + b"".join(_PAIR.pack(*one) for one in self.slots) + self.metadata
        if len(raw) > GRANT_BYTES_MAX:
            raise ValueError(f"{len(self.slots)} slots are too many for one grant")
        return raw

    @classmethod
    def decoded(cls, raw: bytes) -> Grant:
        """Raises Unreadable."""
        if not _GRANT.size <= len(raw) <= GRANT_BYTES_MAX:
            raise Unreadable("no grant has this length")
        connection, landing, metadata_bytes, count = _GRANT.unpack_from(raw)
        end = _GRANT.size + count * _PAIR.size
        if end + metadata_bytes != len(raw):
            raise Unreadable("a grant does not have the length it tells")
        slots = tuple(_PAIR.unpack_from(raw, _GRANT.size + at * _PAIR.size) for at in range(count))
        return cls(connection, landing, slots, raw[end:])


def offer_of(metadata: bytes) -> bytes:
    """With a sum: what is no offer never comes to NIXL's own reading of it."""
    return _OFFER_MARK + sha256(metadata).digest()[:_SUM_BYTES] + metadata


def metadata_of(offer: bytes) -> bytes:
    """Raises Unreadable."""
    begin = len(_OFFER_MARK) + _SUM_BYTES
    metadata = offer[begin:]
    if not metadata or offer != offer_of(metadata):
        raise Unreadable("this is no offer of a NIXL channel")
    return metadata
