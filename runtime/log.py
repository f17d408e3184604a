"""Structured logging over the standard library: an event name and fields, and once means once.

    log = Log("l1_manager")
    log.info("arena_ready", bytes=arena.bytes, pages="huge_2m")
    log.warning_once("no_huge_pages", reason=reason)

writes `arena_ready bytes=1073741824 pages=huge_2m` to the logger `penstock.l1_manager`;
`JsonFormatter` writes the same as a line of JSON. Nothing is configured on import: a program that
embeds Penstock keeps its own logging.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable
from typing import TextIO

ROOT = "penstock"
ONCE_MAX = 1024  # distinct things one Log remembers having said; beyond it, it stays silent


class Log:
    """The log of one part. What was said once is remembered here, not in the process."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{name}")
        self._said: set[tuple[Hashable, ...]] = set()  # len <= ONCE_MAX

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def crash(self, event: str, error: BaseException, **fields: object) -> None:
        """An ERROR with the traceback of `error`."""
        self._write(logging.ERROR, event, fields, error)

    def info_once(self, event: str, /, *key: Hashable, **fields: object) -> None:
        """`info`, the first time this event comes with this `key`."""
        if self._is_new((event, *key)):
            self.info(event, **fields)

    def warning_once(self, event: str, /, *key: Hashable, **fields: object) -> None:
        """`warning`, the first time this event comes with this `key`."""
        if self._is_new((event, *key)):
            self.warning(event, **fields)

    def _is_new(self, what: tuple[Hashable, ...]) -> bool:
        if what in self._said or len(self._said) >= ONCE_MAX:
            return False
        self._said.add(what)
        return True

    def _write(
        self,
        level: int,
        event: str,
        fields: dict[str, object],
        error: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            text = " ".join([event, *(f"{key}={_plain(value)}" for key, value in fields.items())])
            record = {"event": event, "fields": fields}
            self._logger.log(level, "%s", text, extra={"penstock": record}, exc_info=error)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, event, the fields, and a traceback if there is
    one.
    """

    def format(self, record: logging.LogRecord) -> str:
        said = getattr(record, ROOT, None) or {"event": record.getMessage(), "fields": {}}
        line: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": said["event"],
            **said["fields"],
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, then the event with its fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def write_logs(stream: TextIO, *, level: int, formatter: logging.Formatter) -> logging.Handler:
    """Send Penstock's logs of `level` and above to `stream`; for programs that are ours, such as
    the node.

    Returns the handler, for `logging.getLogger("penstock").removeHandler`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger(ROOT)
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False
    return handler


def _plain(value: object) -> str:
    """A value as it stands after `=`: quoted only if it could not be read back otherwise."""
    text = str(value)
    return json.dumps(text) if not text or any(char in text for char in ' "=\n') else text
