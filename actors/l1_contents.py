"""Which chunks L1 has: what the L1 manager tells the directory of a node that has peers.

News are level-triggered: the directory is told once that something changed, and not again until it has asked for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import assert_never

from penstock import _native
from penstock.actors.api import directory, l1_contents
from penstock.runtime.errors import ActorStopped, MailboxFull
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref


class Contents:
    """Belongs to the L1 manager. `told`: the directory; None in a node that stands alone, where nobody asks.

    A table that keeps no changes has nothing that lookups could hit, as far as peers are told: that of staging."""

    def __init__(self, table: _native.Table, told: Ref[directory.Directory] | None) -> None:
        self._table = table
        self._directory = told
        self._is_kept = table.changes_due  # of a new table: nobody has begun
        self._is_told = False  # and has not asked yet

    def receive(self, msg: l1_contents.Message) -> object:
        self._is_told = False
        match msg:
            case l1_contents.TakeChanges():
                return answer(msg, self._take_changes(msg.chunks_max))
            case l1_contents.ResidentKeys():
                return answer(msg, self._resident_keys(msg))
            case _:
                assert_never(msg)

    def _take_changes(self, chunks_max: int) -> l1_contents.ContentChanges:
        is_lost = self._is_kept and self._table.changes_lost
        taken = self._table.take_changes(chunks_max)
        return l1_contents.ContentChanges(
            taken.added, taken.gone, is_lost, is_last=not self._table.changes_left
        )

    def _resident_keys(self, msg: l1_contents.ResidentKeys) -> l1_contents.Residents:
        if not self._is_kept:
            return l1_contents.Residents(b"", cursor=0, is_over=True, chunks=0)
        if msg.cursor and msg.cursor != self._table.changes_cursor:
            raise l1_contents.Interrupted(
                "chunks have come and gone beyond changes_max: begin with 0"
            )
        step = self._table.resident_keys(msg.cursor, msg.chunks_max)
        chunks = 0 if msg.cursor else self._table.statistics().chunks
        return l1_contents.Residents(step.keys, step.cursor, step.is_over, chunks)

    # News.

    def around(self, border: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """`border`, after which the directory hears if anything has changed. In a node that stands alone nothing more
        than `border`."""
        return border if self._directory is None else _Telling(border, self._tell)

    def _tell(self) -> None:
        if self._is_told or self._directory is None or not self._table.changes_due:
            return
        try:
            self._directory.tell_nowait(directory.Changed())
        except (MailboxFull, ActorStopped):
            return  # told after the next message
        self._is_told = True


class _Telling:
    """A class, and no generator: every message passes here."""

    __slots__ = ("_border", "_tell")

    def __init__(self, border: AbstractContextManager[None], tell: Callable[[], None]) -> None:
        self._border = border
        self._tell = tell

    def __enter__(self) -> None:
        self._border.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._tell()
        return self._border.__exit__(kind, error, traceback)
