"""Page-aligned memory beside the arena."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, c_char
from mmap import PAGESIZE, mmap

HEAP_BYTES_MAX = 1024 * 1024  # more than that is backed, and so emptied, when it is touched


def fresh_pages(sizes: Sequence[int]) -> list[memoryview]:
    """Page-aligned zeros of these sizes, all whole pages. They live as long as anyone may touch them.

    Always zeros, and nobody else's: a header that was not read is no header, and one that a device still writes,
    because whoever waited for it gave up, is not given out again. Few come from the heap, which keeps pages that the
    system has backed with memory already: to have it back them anew costs more than all that is done with a header.
    """
    if not sizes:
        return []
    total = sum(sizes)
    pages = memoryview(mmap(-1, total)) if total > HEAP_BYTES_MAX else _of_the_heap(total)
    views, start = [], 0
    for size in sizes:
        views.append(pages[start : start + size])
        start += size
    return views


def _of_the_heap(size_bytes: int) -> memoryview:
    memory = bytearray(size_bytes + PAGESIZE - 1)
    start = -addressof(c_char.from_buffer(memory)) % PAGESIZE
    return memoryview(memory)[start : start + size_bytes]
