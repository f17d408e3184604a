"""How an object lies on a Valkey server.

    <prefix><64 hex>                 head: meta, header, and the payload if it is not larger than a part
    <prefix><64 hex>:<id>:<n>        part n of the payload, of the version `id`

    meta, little-endian              8 magic, 2 version, 2 flags, 4 header bytes, 16 id, 8 payload bytes, 8 part bytes

The head names the version whose parts it wants, so those of another are never taken for them; it is written last.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from penstock.actors.stores.store import Wanted

MAGIC = b"PENSTKV\0"
VERSION = 1
ID_BYTES = 16
_META = struct.Struct(f"<8sHHI{ID_BYTES}sQQ")
META_BYTES = _META.size
PARTS_MAX = 65536  # of one object: more is no head of ours


@dataclass(frozen=True, slots=True)
class Meta:
    header_bytes: int
    payload_bytes: int
    part_bytes: int  # 0: the payload follows the header
    id: bytes

    def __bytes__(self) -> bytes:
        numbers = (self.payload_bytes, self.part_bytes)
        return _META.pack(MAGIC, VERSION, 0, self.header_bytes, self.id, *numbers)

    @staticmethod
    def read(data: bytes | bytearray) -> Meta | None:
        """None: it is no meta of this version."""
        if len(data) != META_BYTES:
            return None
        magic, version, flags, header, id_, payload, part = _META.unpack(data)
        if magic != MAGIC or version != VERSION or flags:
            return None
        if part and -(-payload // part) > PARTS_MAX:
            return None
        return Meta(header, payload, part, id_)

    @property
    def parts(self) -> range:
        """Where each begins in the payload."""
        return range(0, self.payload_bytes, self.part_bytes) if self.part_bytes else range(0)

    def part_names(self, head: bytes) -> list[bytes]:
        """Of the object whose head is called so."""
        stem = b"%b:%b:" % (head, self.id.hex().encode())
        return [b"%b%d" % (stem, number) for number in range(len(self.parts))]


class HeadSink:
    """Takes a head apart while it comes: header, and payload if it is in it, go where they belong.

    It is refused, before a byte is written, unless they have room there.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._meta_bytes = bytearray(META_BYTES)
        self._asked = 0
        self.meta: Meta | None = None  # set when the object has room
        self.reason = ""  # why it is refused

    def room(self, left_bytes: int) -> memoryview:
        self._asked += 1
        match self._asked:
            case 1 if left_bytes >= META_BYTES:
                return memoryview(self._meta_bytes)
            case 1:
                self.reason = f"it has {left_bytes} bytes, and no head has so few"
            case 2 if self._fits(left_bytes):
                return self._wanted.header
            case 3:
                return self._wanted.payload
        return memoryview(b"")

    def _fits(self, left_bytes: int) -> bool:
        meta = Meta.read(self._meta_bytes)
        wanted = self._wanted
        if meta is None:
            self.reason = "it has no head of this version"
            return False
        follows = 0 if meta.part_bytes else meta.payload_bytes
        there = f"{meta.header_bytes} + {meta.payload_bytes} bytes"
        if meta.header_bytes != len(wanted.header) or meta.payload_bytes > len(wanted.payload):
            room = f"{len(wanted.header)} + {len(wanted.payload)}"
            self.reason = f"it has {there}, there is room for {room}"
        elif left_bytes != meta.header_bytes + follows:
            self.reason = f"it says {there}, but {left_bytes} came"
        else:
            self.meta = meta
        return self.meta is not None


class PartSink:
    """Takes a part that is exactly as long as its place."""

    def __init__(self, place: memoryview) -> None:
        self._place = place
        self.is_taken = False

    def room(self, left_bytes: int) -> memoryview:
        self.is_taken = left_bytes == len(self._place)
        return self._place if self.is_taken else memoryview(b"")
