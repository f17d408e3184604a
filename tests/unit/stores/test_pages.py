"""Memory beside the arena: aligned, zeros, and nobody else's."""

from __future__ import annotations

import ctypes
import gc
from itertools import pairwise
from mmap import PAGESIZE

from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.stores.pages import fresh_pages


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@given(st.lists(st.integers(1, 100), max_size=12))
def test_pages_are_aligned_and_apart(pages: list[int]) -> None:
    """Seen to fail with the bytes in front of the first whole page given out."""
    views = fresh_pages([count * PAGESIZE for count in pages])
    assert [len(view) for view in views] == [count * PAGESIZE for count in pages]
    assert all(address(view) % PAGESIZE == 0 for view in views)
    spans = sorted((address(view), address(view) + len(view)) for view in views)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_memory_that_was_used_before_is_zeros_again() -> None:
    """A header that was not read must not be one that was. Seen to fail with a free list of written pages."""
    for _ in range(64):
        views = fresh_pages([PAGESIZE, 3 * PAGESIZE])
        for view in views:
            assert bytes(view) == bytes(len(view))
            view[:] = b"\xff" * len(view)


def test_a_view_keeps_its_memory() -> None:
    """Seen to fail with views made of an address."""
    kept = fresh_pages([PAGESIZE] * 8)[3]
    kept[:] = b"\x5a" * PAGESIZE
    gc.collect()
    others = [fresh_pages([PAGESIZE] * 8) for _ in range(16)]
    assert not any(address(kept) == address(view) for views in others for view in views)
    assert bytes(kept) == b"\x5a" * PAGESIZE
