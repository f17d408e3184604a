"""Something made of a few small files, made anew when they change; while that cannot be done, the former one stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from penstock.runtime.errors import ConfigError
from penstock.runtime.log import Log

T = TypeVar("T")

Signature = tuple[tuple[int, int, int] | None, ...]
LOOK_EVERY_S = 1.0


def signature_of(paths: Sequence[Path]) -> Signature:
    """Another one when any of them was written, or replaced; links are followed."""
    return tuple(_stat(path) for path in paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        known = path.stat()
    except OSError:
        return None
    return known.st_ino, known.st_mtime_ns, known.st_size


class WatchedFiles(Generic[T]):
    """All methods may be called on any thread. Nothing is looked at unless `current` is called."""

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], T],
        log: Log,
        *,
        every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` makes it, or raises ConfigError, as this does at first. Files are looked at `every_s`, at most."""
        self._paths = tuple(paths)
        self._read = read
        self._log = log
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = signature_of(self._paths)
        self._value = self._checked()
        self._look_at = clock() + every_s
        self.reloads = 0
        self.refusals = 0  # changes that were not used

    @property
    def last(self) -> T:
        """Without a look at the files."""
        return self._value

    def current(self) -> T:
        """The newest that could be made. Reads files when they have changed, which takes some milliseconds."""
        with self._lock:
            now = self._clock()
            if now >= self._look_at:
                self._look_at = now + self._every_s
                self._look()
            return self._value

    def _look(self) -> None:
        signature = signature_of(self._paths)
        if signature == self._seen:
            return
        self._seen = signature
        files = ", ".join(map(str, self._paths))
        try:
            self._value = self._checked()
        except ConfigError as refusal:
            self.refusals += 1
            reason = str(refusal)
            self._log.warning("files_not_used", reason=reason, instead="what was read before")
        else:
            self.reloads += 1
            self._log.info("files_read_again", files=files)

    def _checked(self) -> T:
        """Raises ConfigError."""
        before = signature_of(self._paths)
        value = self._read()
        if signature_of(self._paths) != before:
            raise ConfigError(
                "", f"{self._paths[0]}: changed while it was being read: write it anew"
            )
        return value
