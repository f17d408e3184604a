"""The transcript of a simulation: what happened, in virtual time, one line each.

Two runs of one seed give the same transcript, byte for byte, in any process. Lines beyond
`lines_max` are dropped from the front; the digest covers every line ever written.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable

LINES_MAX = 100_000


class Transcript:
    """Lines stamped with virtual time."""

    def __init__(self, now: Callable[[], float], *, lines_max: int = LINES_MAX) -> None:
        self._now = now
        self._lines: deque[str] = deque(maxlen=lines_max)
        self._written_total = 0
        self._digest = hashlib.sha256()

    def note(self, text: str) -> None:
        """Add one line."""
        line = f"{self._now():.9f} {text}"
        self._lines.append(line)
        self._written_total += 1
        self._digest.update(line.encode() + b"\n")

    @property
    def dropped_total(self) -> int:
        """Lines that were written and are no longer held."""
        return self._written_total - len(self._lines)

    def lines(self) -> list[str]:
        return list(self._lines)

    def text(self) -> str:
        """The lines that are held, and a last one that vouches for all."""
        return "\n".join([*self._lines, f"{self._written_total} lines, sha256 {self.digest()}", ""])

    def digest(self) -> str:
        """SHA-256 in hex over all lines."""
        return self._digest.hexdigest()


class TranscriptHandler(logging.Handler):
    """Writes log records into a transcript, without their wall time."""

    def __init__(self, transcript: Transcript) -> None:
        super().__init__()
        self._transcript = transcript

    def emit(self, record: logging.LogRecord) -> None:
        self._transcript.note(f"log {record.name} {record.levelname} {record.getMessage()}")
