"""The door to the arena: a Unix socket that hands the arena's descriptor to attached processes, and watches them.

    process: connects, sends its 32-byte session secret
    node:    one byte 1 with the descriptor (SCM_RIGHTS), or one byte 0 when the session moves no bytes;
             a wrong secret, or none in time, closes the connection

A pidfd of the connected process is taken from the socket. When it fires, the process is proven gone, even while a
child it forked holds every one of its sockets open; the end of the connection proves nothing and is ignored.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from anyio import (
    BrokenResourceError,
    CancelScope,
    EndOfStream,
    create_unix_listener,
    fail_after,
    sleep_forever,
    wait_readable,
)
from anyio.abc import SocketAttribute, SocketListener, SocketStream, UNIXSocketStream

from penstock.actors.api import session
from penstock.actors.api.types import SessionId
from penstock.runtime.accepting import accept_all
from penstock.runtime.claim import check_nobody_listens
from penstock.runtime.errors import ActorStopped, DeadlineExceeded, PenstockError
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

SECRET_BYTES = 32
SO_PEERPIDFD = 77  # Linux 6.5; not yet a constant of every supported Python
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class DoorLimits:
    connections_max: int
    secret_within_s: float  # a connection that has not shown its secret by then is closed
    ask_s: float


class ArenaDoor:
    """Serves the arena socket at `path` (mode 0600) on behalf of the session keeper."""

    def __init__(self, path: Path, *, arena_fd: int, limits: DoorLimits) -> None:
        self._path = path
        self._arena_fd = arena_fd
        self._limits = limits
        self._listener: SocketListener | None = None  # from open() to the end of serve()
        self._watched: dict[SessionId, CancelScope] = {}  # one per session that entered
        self._log = Log("arena_door")

    async def open(self) -> None:
        """Replace the socket file and listen: from here on processes may knock. `serve` must follow.

        Raises StartFailed where another program listens."""
        check_nobody_listens(self._path, otherwise="stop it, or choose another state_dir")
        self._path.unlink(missing_ok=True)
        self._listener = await create_unix_listener(self._path, mode=0o600, backlog=64)

    async def serve(self, sessions: Ref[session.Sessions]) -> None:
        """Until cancelled. The socket file is removed at the end."""
        assert self._listener is not None, "open() comes before serve()"

        async def meet(stream: SocketStream) -> None:
            assert isinstance(stream, UNIXSocketStream)
            await self._meet(stream, sessions)

        try:
            async with self._listener as listener:
                await accept_all(listener, meet, connections_max=self._limits.connections_max)
        finally:
            self._path.unlink(missing_ok=True)

    async def _meet(self, stream: UNIXSocketStream, sessions: Ref[session.Sessions]) -> None:
        """The process is in our hands before it is let in: what entered is watched, whatever happens then."""
        try:
            pidfd = peer_pidfd(stream.extra(SocketAttribute.raw_socket))
        except OSError as unseen:  # gone already, or we are out of descriptors
            self._log.warning("turned_away", reason=str(unseen))
            return
        try:
            entered = await self._let_in(stream, sessions)
            if entered is not None:
                await self._watch(pidfd, entered, sessions)
        finally:
            if pidfd is not None:
                os.close(pidfd)

    async def _let_in(
        self, stream: UNIXSocketStream, sessions: Ref[session.Sessions]
    ) -> session.Door | None:
        try:
            with fail_after(self._limits.secret_within_s):
                secret = await _receive_exactly(stream, SECRET_BYTES)
            entered = await sessions.ask(session.Enter(secret), within=self._limits.ask_s)
        except (TimeoutError, EndOfStream, BrokenResourceError) as gone:
            self._log.debug("left_at_the_door", reason=type(gone).__name__)
            return None
        except PenstockError as refusal:
            self._log.warning("turned_away", reason=str(refusal))
            return None
        try:
            if entered.hands_out_arena:
                await stream.send_fds(b"\x01", [self._arena_fd])
            else:
                await stream.send(b"\x00")
        except BrokenResourceError:
            self._log.debug("left_at_the_door", session=entered.session)
        return entered

    async def _watch(
        self, pidfd: int | None, entered: session.Door, sessions: Ref[session.Sessions]
    ) -> None:
        """Report the death of the process that entered, unless its session is over before."""
        with CancelScope() as scope:
            self._watched[entered.session] = scope
            try:
                await self._wait_exit(pidfd)
                await self._tell_exit(entered.session, sessions)
            finally:
                del self._watched[entered.session]

    async def _tell_exit(self, exited: SessionId, sessions: Ref[session.Sessions]) -> None:
        """Until it is told: this proof comes once, and nothing else frees what the process held."""
        while True:
            try:
                await sessions.tell(session.ProcessExited(exited), within=self._limits.ask_s)
            except DeadlineExceeded:
                self._log.warning_once("keeper_is_late", session=exited)
            except ActorStopped:
                return  # the node is stopping, and all its memory goes with it
            else:
                return

    async def _wait_exit(self, pidfd: int | None) -> None:
        """Until the process is proven gone; for ever if that cannot be seen from here."""
        if pidfd is None:
            self._log.warning_once("no_pidfd", reason="the peer is in a foreign pid namespace")
            await sleep_forever()
        else:
            await wait_readable(pidfd)

    def dismiss(self, over: SessionId) -> None:
        """The session is over: its process is not watched any more, and its connection closed."""
        if (scope := self._watched.get(over)) is not None:
            scope.cancel()


def peer_pidfd(connection: socket.socket) -> int | None:
    """A pidfd of the process that made `connection`; None when it cannot be seen from here.

    The kernel's own (SO_PEERPIDFD) cannot be confused by a reused pid. Before Linux 6.5 the pid is opened instead.
    Raises OSError: the process is gone already, or there is no descriptor left.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as refused:
        if refused.errno != errno.ENOPROTOOPT:
            raise
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(packed)
    if pid <= 0:
        return None
    return os.pidfd_open(pid)


async def _receive_exactly(stream: UNIXSocketStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += await stream.receive(size - len(received))
    return received
