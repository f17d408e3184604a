"""A medium of numbered bytes: a block device, or a file that stands for one."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from penstock.actors.stores.discards import Span, discard_blocks, punch_holes
from penstock.actors.stores.native_io import Moved, Moves, NativeIo, Piece
from penstock.actors.stores.threads import NoThread, on_a_thread


class Device(Protocol):
    """Offsets and sizes are whole blocks. Pieces are asked for together, and each is answered by its bytes or -errno.

    A write of a piece is whole, or failed; what failed may have been written all the same. What is written is read at
    once, but survives a power cut only after a `sync` that began later has succeeded. Pieces that are under way at the
    same time may be carried out in any order. Whoever awaits one shields it: its end must be heard of, even by nobody.
    """

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, pieces: Sequence[Piece], hold: object) -> Moves:
        """Each whole, or up to the end of the medium."""

    def write(self, pieces: Sequence[Piece], hold: object) -> Moves: ...

    def sync(self) -> Moves: ...

    def discard(self, spans: Sequence[Span]) -> Moved:
        """What lies there is not needed any more: anything may be read there from now on. 0, or -errno. One at a time,
        and none where something is transferred."""

    def close(self) -> None:
        """When nothing is under way. Idempotent."""


class NativeDevice:
    """An open file, block device or regular, over an I/O engine that it shares with others."""

    def __init__(
        self, io: NativeIo, fd: int, *, name: str, size_bytes: int, is_block: bool = False
    ) -> None:
        """Takes `fd`, to be closed by `close`. `is_block`: it is no regular file."""
        self.name = name
        self._discard = discard_blocks if is_block else punch_holes
        self.size_bytes = size_bytes
        self._io = io
        self._fd = fd

    def read(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return self._io.read(self._fd, pieces, hold)

    def write(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return self._io.write(self._fd, pieces, hold)

    def sync(self) -> Moves:
        return self._io.sync(self._fd)

    def discard(self, spans: Sequence[Span]) -> Moved:
        try:
            fd = os.dup(self._fd)  # it may outlast `close`, and must not meet another's number
        except OSError as error:
            return _over(-(error.errno or errno.EIO))
        try:
            return on_a_thread("discard", partial(_done, self._discard, fd, spans))
        except NoThread:
            os.close(fd)
            return _over(-errno.EAGAIN)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def whole(outcomes: Sequence[int]) -> int:
    """One outcome of pieces: the first -errno, or the sum of their bytes."""
    return next((one for one in outcomes if one < 0), sum(outcomes))


def _over(outcome: int) -> Moved:
    over: Moved = asyncio.get_running_loop().create_future()
    over.set_result(outcome)
    return over


def _done(discard: Callable[[int, Span], None], fd: int, spans: Sequence[Span]) -> int:
    """Blocks. Closes `fd`."""
    try:
        for span in spans:
            discard(fd, span)
    except OSError as error:
        return -(error.errno or errno.EIO)
    finally:
        os.close(fd)
    return 0
