"""A name only one process may use at a time: a lock file, held as long as the process lives and never longer."""

from __future__ import annotations

import fcntl
import os
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
