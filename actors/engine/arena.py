"""The node's arena as an engine process sees it: fetched through the arena socket, lent to one copy at a time.

The mapping is never handed out: `copying()` lends it for the length of one native call, and it is unmapped as soon
as the session has ended *and* the last such call has. Until then the node can not know that nobody writes there, so
the client attaches again only afterwards. A forked child has neither the mapping (MADV_DONTFORK) nor the socket.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from anyio import Event, fail_after, wait_readable

from penstock._native import ArenaMapping, ArenaRefused
from penstock.actors.engine.errors import MovesNoBytes, NodeAway, StaleEpoch
from penstock.actors.engine.forks import GuardedSocket

HAS_ARENA, NO_ARENA = b"\x01", b"\x00"


class ArenaLink:
    """The open arena socket of one session, and the mapping if the session moves bytes.

    MAPPED --retire()--> RETIRED (running copies end) --> unmapped
    """

    def __init__(self, connection: GuardedSocket | None, mapping: ArenaMapping | None) -> None:
        # Open for the session's life: the node took its pidfd from it. None over TCP.
        self._connection = connection
        self._mapping = mapping  # None: this process moves no bytes, or it is unmapped
        self._copies = 0  # native copies running; the mapping lives while there is one
        self._is_retired = False
        self._idle = Event()

    @contextmanager
    def copying(self) -> Iterator[ArenaMapping]:
        """Lend the mapping to one copy. Raises StaleEpoch after `retire`, MovesNoBytes without an arena."""
        mapping = self.require()
        self._copies += 1
        try:
            yield mapping
        finally:
            self._copies -= 1
            self._unmap_if_idle()

    def require(self) -> ArenaMapping:
        """Raises StaleEpoch after `retire`, MovesNoBytes without an arena."""
        if self._is_retired:
            raise StaleEpoch(
                "the session has ended and its arena is given up: look the prompt up again"
            )
        if self._mapping is None:
            raise MovesNoBytes(
                "this process moves no bytes: declare own_shards in EngineSpec, on the node's machine"
            )
        return self._mapping

    def retire(self) -> None:
        """No copy begins any more; the arena is unmapped when the last one has ended. Idempotent."""
        if not self._is_retired:
            self._is_retired = True
            self._unmap_if_idle()

    async def wait_unmapped(self) -> None:
        """After `retire`: wait until this process cannot touch the arena any more. As long as a copy takes."""
        await self._idle.wait()

    @property
    def is_mapped(self) -> bool:
        return self._mapping is not None

    def _unmap_if_idle(self) -> None:
        if not self._is_retired or self._copies:
            return
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        if self._connection is not None:
            self._connection.close()
        self._idle.set()


async def enter_arena(
    path: str, secret: bytes, *, arena_bytes: int, prefault_threads: int, within: float
) -> ArenaLink:
    """Show `secret` at the arena socket and map what it hands out.

    Raises NodeAway when nobody answers there, or the node does not know the secret (any more).
    """
    connection = GuardedSocket(socket.AF_UNIX)
    try:
        with fail_after(within):
            await _show(connection, path, secret)
        answer, fd = _receive_fd(connection)
        mapping = _map(answer, fd, arena_bytes, prefault_threads)
    except (OSError, ArenaRefused) as error:  # a TimeoutError is an OSError
        connection.close()
        problem = str(error) or f"no answer within {within:.1f} s"
        raise NodeAway(f"the arena socket {path}: {problem}") from error
    except (asyncio.CancelledError, NodeAway):
        connection.close()
        raise
    return ArenaLink(connection, mapping)


async def _show(connection: socket.socket, path: str, secret: bytes) -> None:
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    await loop.sock_connect(connection, path)
    await loop.sock_sendall(connection, secret)
    await wait_readable(connection)


def _map(
    answer: bytes, fd: int | None, arena_bytes: int, prefault_threads: int
) -> ArenaMapping | None:
    if answer == NO_ARENA and fd is None:
        return None
    if answer != HAS_ARENA or fd is None:
        raise NodeAway("the node closed the arena socket: it does not know this session any more")
    try:
        mapping = ArenaMapping(fd=fd, bytes=arena_bytes)
    finally:
        os.close(fd)
    if prefault_threads:
        mapping.start_prefault(threads=prefault_threads)
    return mapping


def _receive_fd(connection: socket.socket) -> tuple[bytes, int | None]:
    """One byte and at most one descriptor, closed on exec from the start: no child inherits the arena."""
    size = socket.CMSG_SPACE(array.array("i").itemsize)
    answer, ancillary, _, _ = connection.recvmsg(1, size, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return answer, (fds[0] if fds else None)
