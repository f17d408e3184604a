"""Memory that a foreign library reads for as long as it likes."""

from __future__ import annotations

import ctypes


def held(view: memoryview, hold: object) -> memoryview:
    """The bytes of `view`, in a buffer that keeps `hold` alive for as long as anybody has the buffer.

    A library that is told to stop, or that has failed, may still be sending from its own threads.
    """
    if view.readonly or not view.nbytes:
        return memoryview(bytes(view))
    memory = (ctypes.c_ubyte * view.nbytes).from_buffer(view)
    memory.__dict__["hold"] = hold
    return memoryview(memory).cast("B")
