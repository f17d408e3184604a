"""A medium of numbered bytes: a block device, or a file that stands for one."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from typing_extensions import Buffer

from penstock.actors.stores.discards import Span, discard_blocks, punch_holes
from penstock.actors.stores.native_io import IoBusy, IoClosed, Moved, NativeIo
from penstock.actors.stores.threads import NoThread, on_a_thread


class Device(Protocol):
    """Offsets and sizes are whole blocks. What fails, or cannot begin, is answered by -errno.

    A write is whole, or failed; what failed may have been written all the same. What is written is read at once, but
    survives a power cut only after a `sync` that began later has succeeded. Transfers that are under way at the same
    time may be carried out in any order. Whoever awaits one shields it: its end must be heard of, even by nobody.
    """

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved:
        """Whole, or up to the end of the medium."""

    def write(self, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved: ...

    def sync(self) -> Moved: ...

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

    def read(self, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved:
        try:
            return self._io.read(self._fd, offset, buffers, hold)
        except (IoBusy, IoClosed) as refusal:
            return _refused(refusal)

    def write(self, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved:
        try:
            return self._io.write(self._fd, offset, buffers, hold)
        except (IoBusy, IoClosed) as refusal:
            return _refused(refusal)

    def sync(self) -> Moved:
        try:
            return self._io.sync(self._fd)
        except (IoBusy, IoClosed) as refusal:
            return _refused(refusal)

    def discard(self, spans: Sequence[Span]) -> Moved:
        try:
            return on_a_thread("discard", partial(_done, self._discard, self._fd, spans))
        except NoThread:
            return _over(-errno.EAGAIN)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Together:
    """Transfers that are waited for together, by one who may give up."""

    def __init__(self) -> None:
        self._left = 0
        self._over: asyncio.Future[None] | None = None

    def one_more(self) -> None:
        self._left += 1

    def one_is_over(self) -> None:
        self._left -= 1
        if not self._left and self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def wait(self) -> None:
        if self._left:
            self._over = asyncio.get_running_loop().create_future()
            await self._over


def joined(moved: Sequence[Moved]) -> Moved:
    """One outcome of all: the sum of bytes, or the first -errno, when the last of them is over."""
    if len(moved) == 1:
        return moved[0]
    whole: Moved = asyncio.get_running_loop().create_future()
    left = len(moved)

    def one_is_over(_: Moved) -> None:
        nonlocal left
        left -= 1
        if not left:
            outcomes = [one.result() for one in moved]
            failed = [outcome for outcome in outcomes if outcome < 0]
            whole.set_result(failed[0] if failed else sum(outcomes))

    for one in moved:
        one.add_done_callback(one_is_over)
    return whole


def _refused(refusal: IoBusy | IoClosed) -> Moved:
    return _over(-errno.EBUSY if isinstance(refusal, IoBusy) else -errno.ECANCELED)


def _over(outcome: int) -> Moved:
    over: Moved = asyncio.get_running_loop().create_future()
    over.set_result(outcome)
    return over


def _done(discard: Callable[[int, Span], None], fd: int, spans: Sequence[Span]) -> int:
    """Blocks."""
    try:
        for span in spans:
            discard(fd, span)
    except OSError as error:
        return -(error.errno or errno.EIO)
    return 0
