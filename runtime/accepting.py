"""Accepting connections: as many at once as one allows, and never dying of a flood of them."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

from anyio import BrokenResourceError, Semaphore, create_task_group, sleep
from anyio.abc import SocketListener, SocketStream

from penstock.runtime.log import Log

RETRY_S = 0.05  # the kernel tells of nobody when a descriptor is free again
_PASSING = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPROTO}
)


async def accept_all(
    listener: SocketListener,
    meet: Callable[[SocketStream], Awaitable[None]],
    *,
    connections_max: int,
) -> None:
    """Run `meet` for every connection, and close it after that; until cancelled.

    At most `connections_max` are met at once; others wait unaccepted, which costs this process nothing. When it
    is out of descriptors or memory, those who are there are served on.
    """
    log = Log("accepting")
    slots = Semaphore(connections_max)

    async def visit(stream: SocketStream) -> None:
        try:
            async with stream:
                await meet(stream)
        finally:
            slots.release()

    async with create_task_group() as visitors:
        while True:
            await slots.acquire()
            try:
                stream = await listener.accept()
            except BrokenResourceError as broken:
                slots.release()
                if not _is_passing(broken.__cause__):
                    raise
                log.warning_once("cannot_accept", reason=str(broken.__cause__))
                await sleep(RETRY_S)
                continue
            visitors.start_soon(visit, stream)


def _is_passing(cause: BaseException | None) -> bool:
    return isinstance(cause, OSError) and cause.errno in _PASSING
