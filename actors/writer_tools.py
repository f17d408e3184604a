"""What all lanes of the store writer share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.actors.api import l1
from penstock.actors.api.types import Memory, Shape
from penstock.actors.writer_books import Books
from penstock.actors.writer_limits import LaneLimits
from penstock.actors.writer_loans import Loans
from penstock.actors.writer_metrics import WriterMetrics
from penstock.runtime.ref import Ref

Released = Callable[[Shape, Sequence[tuple[bytes, int]]], None]


@dataclass(frozen=True, slots=True)
class LaneTools:
    """`limits`: of one store."""

    manager: Ref[l1.L1Manager]
    memory: Memory
    books: Books
    metrics: WriterMetrics
    limits: LaneLimits
    loans: Loans
    draw: Callable[[], float]  # 0 to 1, for jitter
    start_soon: Callable[..., None]
    released: Released  # these are pending nowhere any more
    moved: Callable[[], None]  # the backlog has changed
