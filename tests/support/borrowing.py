"""Borrowing from a native table, in a word; and what a batch of it says, unpacked."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from support.table_rig import NEVER, TableRig

from penstock._native import Borrowed

OWN = 0
RECORD = struct.Struct("<QQQIIHHI")


@dataclass(frozen=True)
class BorrowedObject:
    key: bytes
    slot: int
    offset: int
    bytes: int
    digest: int
    tenant: int
    runs: bytes


def objects_of(borrowed: Borrowed) -> list[BorrowedObject]:
    keys = [borrowed.keys[i : i + 32] for i in range(0, len(borrowed.keys), 32)]
    objects, start = [], 0
    for offset, size, digest, chunk, tenant, slot, _, runs in RECORD.iter_unpack(borrowed.objects):
        own_runs = borrowed.runs[8 * start : 8 * (start + runs)]
        objects.append(BorrowedObject(keys[chunk], slot, offset, size, digest, tenant, own_runs))
        start += runs
    assert len(objects) == borrowed.count
    assert 8 * start == len(borrowed.runs)
    return objects


def named_of(borrowed: Borrowed) -> list[tuple[bytes, int]]:
    keys = [borrowed.named_keys[i : i + 32] for i in range(0, len(borrowed.named_keys), 32)]
    slots = struct.unpack(f"<{len(keys)}H", borrowed.named_slots)
    return list(zip(keys, slots, strict=True))


class BorrowingRig(TableRig):
    """A rig that keeps news, with the node's own session."""

    def __init__(self, *, news_max: int = 1024, **options: object) -> None:
        super().__init__(news_max=news_max, **options)  # type: ignore[arg-type]
        self.table.attach(OWN, instance=0)

    def borrow(self, keys: Sequence[bytes], wanted: bytes = b"") -> tuple[bytes, Borrowed]:
        lease = self.new_id()
        packed = b"".join(keys)
        borrowed = self.table.borrow(
            packed, geometry=self.geometry, lease=lease, wanted=wanted, **self._own()
        )
        return lease, borrowed

    def take(
        self, *, objects_max: int = 1 << 20, bytes_max: int = 1 << 40
    ) -> tuple[bytes, Borrowed]:
        lease = self.new_id()
        return lease, self.table.take_committed(objects_max, bytes_max, lease=lease, **self._own())

    def victims(
        self, *, bytes_max: int = 1 << 40, chunks_max: int = 1 << 20
    ) -> tuple[bytes, Borrowed]:
        lease = self.new_id()
        return lease, self.table.victims(bytes_max, chunks_max, lease=lease, **self._own())

    def evict_these(self, keys: bytes) -> list[bytes]:
        gone = self.table.evict_these(keys, now=self.now).keys
        return [gone[i : i + 32] for i in range(0, len(gone), 32)]

    def _own(self) -> dict[str, float]:
        return {"session": OWN, "now": self.now, "expires": NEVER}  # type: ignore[dict-item]
