"""A medium of numbered bytes: a block device, or a file that stands for one."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple, Protocol

from penstock.actors.stores.discards import Span, discard_blocks, punch_holes
from penstock.actors.stores.native_io import Moved, Moves, NativeIo, Piece
from penstock.actors.stores.threads import NoThread, on_a_thread
from penstock.actors.stores.together import together
from penstock.runtime.log import Log


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

    def write_first(self, pieces: Sequence[Piece], hold: object) -> Moves:
        """The same, without waiting behind what `write` was asked for before."""

    def sync(self) -> Moves: ...

    def discard(self, spans: Sequence[Span]) -> Moved:
        """What lies there is not needed any more: anything may be read there from now on. 0, or -errno. One at a time,
        and none where something is transferred."""

    def close(self) -> None:
        """When nothing is under way. Idempotent."""


class DeviceIo(NamedTuple):
    """The I/O engines of the devices of a store. Payloads may wait by the thousand to be written: what somebody waits
    for meanwhile, a load, or a block of the log that tells of hundreds of objects, shall not wait behind them."""

    payloads: NativeIo  # to be written
    first: NativeIo  # all else

    async def aclose(self) -> None:
        """As that of an engine."""
        await together(NativeIo.aclose, self)


async def begin_device_io(begin: Callable[..., NativeIo], log: Log) -> DeviceIo:
    """`begin` makes an engine."""
    async with AsyncExitStack() as begun:
        first = begin(log=log)
        begun.push_async_callback(first.aclose)
        made = DeviceIo(begin(log=log), first)
        begun.pop_all()
    return made


class NativeDevice:
    """An open file, block device or regular, over I/O engines that it shares with others."""

    def __init__(
        self, io: DeviceIo, fd: int, *, name: str, size_bytes: int, is_block: bool = False
    ) -> None:
        """Takes `fd`, to be closed by `close`. `is_block`: it is no regular file."""
        self.name = name
        self._discard = discard_blocks if is_block else punch_holes
        self.size_bytes = size_bytes
        self._io = io
        self._fd = fd

    def read(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return self._io.first.read(self._fd, pieces, hold)

    def write(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return self._io.payloads.write(self._fd, pieces, hold)

    def write_first(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return self._io.first.write(self._fd, pieces, hold)

    def sync(self) -> Moves:
        return self._io.first.sync(self._fd)

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
