"""A name only one process may use at a time: a lock file, held as long as the process lives and never longer."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.runtime.errors import StartFailed


@contextmanager
def claimed(lock: Path, *, otherwise: str) -> Iterator[None]:
    """Hold the file `lock` locked while the body runs; a dead owner's lock is free.

    Raises StartFailed, which says `otherwise`, when somebody holds it.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            raise StartFailed(f"{lock} is locked: {otherwise}") from held
        yield
    finally:
        os.close(descriptor)


def check_nobody_listens(path: Path, *, otherwise: str) -> None:
    """Raises StartFailed, which says `otherwise`, where another program listens at the Unix socket `path`: it would
    never hear of anybody again. What a dead one left may be replaced."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        failure = caller.connect_ex(os.fspath(path))
    if failure not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise StartFailed(f"{path} is the socket of another program that runs: {otherwise}")
