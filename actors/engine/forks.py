"""What a fork of the engine process must not inherit.

A child that keeps the arena socket open would look to the node like its parent living on, and a client used in two
processes would interleave two programs on one stream. `os.register_at_fork` cannot be undone, so there is one hook
for the process and a set of what it has to close.
"""

from __future__ import annotations

import os
import socket
import weakref

from penstock.actors.engine import CHILDREN_SURVIVE_FORK
from penstock.actors.engine.errors import ForkedClient
from penstock.runtime.log import Log


class GuardedSocket(socket.socket):
    """A socket that closes itself in every child forked while it is open, and across exec."""

    def __init__(self, family: int) -> None:
        super().__init__(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        _OPEN.add(self)

    def close(self) -> None:
        _OPEN.discard(self)
        super().close()


class HomeProcess:
    """The process an object was made in."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raises ForkedClient in any other process."""
        if not self.is_here:
            raise ForkedClient(
                f"this client was made by process {self._pid}, before the fork: make a new one in this process"
            )


_OPEN: weakref.WeakSet[GuardedSocket] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for guarded in list(_OPEN):
        guarded.close()


os.register_at_fork(after_in_child=_close_all_in_child)


def tell_if_forks_crash(log: Log) -> None:
    """Say it when gRPC was imported too early for `penstock.actors.engine` to keep forked children alive."""
    if not CHILDREN_SURVIVE_FORK:
        log.info_once(
            "forked_children_may_crash",
            reason="gRPC was imported before penstock.actors.engine, with its fork support on",
            remedy="set GRPC_ENABLE_FORK_SUPPORT=0 in the environment of an engine that forks",
        )
