"""Page-aligned memory beside the arena.

It is shared memory that nobody else maps: after a fork a heap's pages are copied when either side writes them, and a
device that writes one meanwhile, where the system does not pin what it reads into, writes the child's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from ctypes import addressof, c_char, memset
from mmap import mmap
from typing import Any
from weakref import ref

POOLED_BYTES_MAX = 1024 * 1024  # more than that is mapped for whoever asks, and unmapped behind him
KEPT_BYTES_MAX = 1024 * 1024  # of each size


class _Lent(ref[Any]):
    """Of what exports a mapping to its views: dead with the last of them."""

    __slots__ = ("mapping", "shelf")

    mapping: mmap
    shelf: deque[mmap]


class PagePool:
    """Mappings that are used again once nothing may touch them any more: to have the system back pages anew costs more
    than all that is done with a header. At most KEPT_BYTES_MAX lie idle of each power of two.

    A child of a fork begins with none: its parent goes on with those it has.
    """

    def __init__(self) -> None:
        self._owner = 0
        self._shelves: dict[int, deque[mmap]] = {}  # by the logarithm of their size
        self._lent: dict[int, _Lent] = {}  # by their address: what they refer to has no hash

    def take(self, size_bytes: int) -> memoryview:
        """Zeros; whole pages. Whatever holds a part of it keeps it."""
        if self._owner != os.getpid():
            # What was lent goes back to the shelf it came from, which nobody knows here.
            self._owner, self._shelves = os.getpid(), {}
        order = (size_bytes - 1).bit_length()
        shelf = self._shelves.get(order)
        if shelf is None:
            shelf = self._shelves[order] = deque(maxlen=max(1, KEPT_BYTES_MAX >> order))
        try:  # another thread may take the last one
            mapping = shelf.pop()
        except IndexError:
            mapping = mmap(-1, 1 << order)
        return self._lend(mapping, shelf, size_bytes)

    def _lend(self, mapping: mmap, shelf: deque[mmap], size_bytes: int) -> memoryview:
        exported = (c_char * size_bytes).from_buffer(mapping)
        memset(addressof(exported), 0, size_bytes)
        lent = _Lent(exported, self._give_back)
        lent.mapping, lent.shelf = mapping, shelf
        self._lent[id(lent)] = lent
        return memoryview(exported).cast("B")

    def _give_back(self, lent: _Lent) -> None:
        """On whatever thread its last view died. A full shelf lets go of its oldest."""
        del self._lent[id(lent)]
        lent.shelf.append(lent.mapping)


_POOL = PagePool()  # of this process, as its heap is


def fresh_pages(sizes: Sequence[int]) -> list[memoryview]:
    """Page-aligned zeros of these sizes, all whole pages. They live as long as anyone may touch them.

    Always zeros, and nobody else's: a header that was not read is no header, and one that a device still writes,
    because whoever waited for it gave up, is not given out again.
    """
    if not sizes:
        return []
    total = sum(sizes)
    pages = memoryview(mmap(-1, total)) if total > POOLED_BYTES_MAX else _POOL.take(total)
    views, start = [], 0
    for size in sizes:
        views.append(pages[start : start + size])
        start += size
    return views
