"""Page-aligned memory beside the arena."""

from __future__ import annotations

import mmap
from collections.abc import Sequence


def fresh_pages(sizes: Sequence[int]) -> list[memoryview]:
    """Page-aligned zeros of these sizes, all whole pages. They live as long as anyone may touch them.

    Always fresh, never reused: a header that was not read is no header, and one that a device still writes, because
    whoever waited for it gave up, is nobody else's.
    """
    if not sizes:
        return []
    memory = memoryview(mmap.mmap(-1, sum(sizes)))
    views, start = [], 0
    for size in sizes:
        views.append(memory[start : start + size])
        start += size
    return views
