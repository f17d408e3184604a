"""What stands in the slots of an object, one after the other: its header, its payload, and what fills them up."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.actors.core.slot_format import Run
from penstock.actors.stores.native_io import Piece
from penstock.actors.stores.raw_layout import Geometry


def filled(
    geometry: Geometry, header: memoryview, payload: memoryview, fill: memoryview
) -> list[memoryview]:
    """In order. `fill`: at least one block, whatever it holds."""
    behind_header = -len(header) % geometry.header_bytes
    behind = -(len(header) + behind_header + len(payload)) % geometry.block_bytes
    if not behind_header and not behind:
        return [header, payload]
    return [header, fill[:behind_header], payload, fill[:behind]]


def pieces(
    runs: Sequence[Run], views: Sequence[memoryview], *, slots_at: int, slot_bytes: int
) -> list[Piece]:
    """One for each run of slots. `slots_at`: where slot 0 begins."""
    if len(runs) == 1:
        return [(slots_at + runs[0].first * slot_bytes, views)]
    rows = _cut(views, [run.slots * slot_bytes for run in runs])
    pairs = zip(runs, rows, strict=True)
    return [(slots_at + run.first * slot_bytes, row) for run, row in pairs]


def _cut(views: Sequence[memoryview], sizes: list[int]) -> list[list[memoryview]]:
    """Rows of these sizes, the last of which may be shorter."""
    rows: list[list[memoryview]] = []
    left = iter(views)
    view = next(left, None)
    for size in sizes:
        row: list[memoryview] = []
        while size and view is not None:
            part = view[:size]
            row.append(part)
            size -= len(part)  # noqa: PLW2901
            view = view[len(part) :] if len(part) < len(view) else next(left, None)
        rows.append(row)
    return rows
