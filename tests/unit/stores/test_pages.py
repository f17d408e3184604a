"""Memory beside the arena: aligned, zeros, and nobody else's."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from itertools import pairwise
from mmap import PAGESIZE

from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.stores.pages import KEPT_BYTES_MAX, PagePool, fresh_pages


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


def test_memory_is_used_again_when_its_last_view_is_dead_and_what_lies_idle_is_bounded() -> None:
    """Seen to fail with every mapping kept, and with none."""
    pool = PagePool()
    pages = pool.take(3 * PAGESIZE)
    first, part = address(pages), pages[PAGESIZE : 2 * PAGESIZE]
    del pages
    assert address(pool.take(3 * PAGESIZE)) != first
    del part
    kept = KEPT_BYTES_MAX // (4 * PAGESIZE)
    many = [pool.take(4 * PAGESIZE) for _ in range(2 * kept)]
    assert first in [address(one) for one in many]
    seen = {address(one) for one in many}
    many.clear()
    again = [pool.take(4 * PAGESIZE) for _ in range(kept)]
    assert {address(one) for one in again} <= seen
    assert sum(map(len, pool._shelves.values())) == 0


FORKED = """
import os
from penstock.actors.stores.pages import fresh_pages

fresh_pages([4096])  # one lies idle
headers = fresh_pages([4096] * 4)
if not os.fork():
    headers[0][:4] = b"read"  # as a device does
    del headers
    for _ in range(64):
        mine = [fresh_pages([4096] * count)[0] for count in (1, 2, 3, 4)]
        for one in mine:
            one[:] = b"\\xff" * 4096
        del mine
    os._exit(0)
assert os.wait()[1] == 0
print(bytes(headers[0][:4]), set(map(bytes, headers[1:])) == {bytes(4096)})
print(all(bytes(fresh_pages([4096])[0]) == bytes(4096) for _ in range(64)))
"""


def test_what_is_read_into_stays_the_memory_of_a_process_that_forks() -> None:
    """A2: a device that writes a header during a fork writes what its node will look at, whichever side writes the
    page first; and a child that uses such memory never has its parent's. Seen to fail with memory of the heap, and
    with a pool whose pages a child goes on with."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=15.0, check=True
    )
    assert done.stdout.split("\n") == ["b'read' True", "True", ""]
