"""The lossy cast of 16-bit KV to fp8: asked for by name, and a part of the namespace."""

from __future__ import annotations

from dataclasses import replace

from penstock._native import (
    CastRefused,
    HalfKind,
    crc64_join_runs,
    fp8_cast,
    fp8_cast_bytes,
    fp8_restore,
)
from penstock.actors.core.lossy import Element, LossyNamespaces
from penstock.actors.stores.header import Header, whole_blocks
from penstock.actors.stores.transform import Declined, Effort, Locked, Unreadable

TRANSFORM_NAME = "fp8_e4m3"  # in namespaces
KINDS = {Element.BFLOAT16: HalfKind.BFLOAT16, Element.FLOAT16: HalfKind.FLOAT16}


class Fp8Step:
    """Digests in the header become those of what is restored: they are over the bytes an engine is given.

    Kept exactly is what would not get smaller, and what holds infinities, NaNs or magnitudes at the end of its range.
    """

    name = b"fp8"
    is_required = False

    def __init__(self, namespaces: LossyNamespaces) -> None:
        self._namespaces = namespaces

    def apply(
        self, header: Header, source: memoryview, room: memoryview, _: Effort
    ) -> tuple[Header, memoryview] | None:
        kind = self._kind(header)
        if kind is None:
            raise Declined(
                f"this store casts to {TRANSFORM_NAME}, and the session's namespace does not say so: name it as its"
                " transform, or let another store keep this"
            )
        runs, size = header.runs, len(source)
        if size != header.logical_bytes or not runs or size % (2 * runs):
            return None
        cast = room[: fp8_cast_bytes(elements=size // 2, runs=runs)]
        if whole_blocks(len(cast)) >= whole_blocks(size):
            return None
        digests = fp8_cast(source=source, target=cast, runs=runs, kind=kind)
        if digests is None:
            return None
        whole = crc64_join_runs(digests, run_bytes=size // runs)
        return replace(header, digest=whole, run_digests=digests), cast

    def undo(
        self, header: Header, stored: memoryview, room: memoryview, _: Effort
    ) -> tuple[Header, memoryview]:
        kind = self._kind(header)
        if kind is None:
            raise Locked("nobody attached has its namespace, which says what its elements are")
        restored = room[: header.logical_bytes]
        try:
            fp8_restore(source=stored, target=restored, runs=header.runs, kind=kind)
        except CastRefused as refusal:
            raise Unreadable(str(refusal)) from None
        return header, restored

    def _kind(self, header: Header) -> HalfKind | None:
        element = self._namespaces.element(header.namespace, TRANSFORM_NAME)
        return None if element is None else KINDS[element]
