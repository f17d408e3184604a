"""How far a long command is: a bar where `rich` is installed and somebody watches, else lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

LINE_EVERY_S = 5.0


class Progress(Protocol):
    """Told after every step; shows as often as it likes."""

    def advance(self, text: str) -> None:
        """One more step is done; `text` says how it stands."""


@contextmanager
def progress(title: str, *, steps: int) -> Iterator[Progress]:
    """Shows on standard error how far `steps` steps are, until the block ends."""
    if sys.stderr.isatty() and find_spec("rich") is not None:
        from penstock.actors.cli.progress_bar import bar

        with bar(title, steps=steps) as shown:
            yield shown
    else:
        yield _Lines(title, steps)


class _Lines:
    """One line every few seconds, and the last."""

    def __init__(self, title: str, steps: int) -> None:
        self._title = title
        self._steps = steps
        self._done = 0
        self._next_line = time.monotonic() + LINE_EVERY_S

    def advance(self, text: str) -> None:
        self._done += 1
        now = time.monotonic()
        if now >= self._next_line or self._done == self._steps:
            self._next_line = now + LINE_EVERY_S
            print(f"{self._title}: {self._done} of {self._steps}  {text}", file=sys.stderr)
