"""What one may ask of the L1 manager about which chunks there are: part of `l1.Message`.

Whoever asks knows the same chunks as L1 when it has taken all changes since it began with `ResidentKeys(0, ...)`:

    ResidentKeys(0) ... ResidentKeys(n), is_over    all that is there, in bounded steps
    TakeChanges ...                                 what has come and gone since; may be taken in between, too
    TakeChanges -> is_lost                          there was too much to remember: begin again with ResidentKeys(0)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.runtime.errors import StaleError
from penstock.runtime.message import Msg

if TYPE_CHECKING:
    from penstock.actors.api.l1 import L1Manager  # noqa: F401 - messages are addressed to it


class Interrupted(StaleError):
    """Nobody's: too much has changed since the last step to go on from there. Begin with cursor 0."""


@dataclass(frozen=True, slots=True)
class ContentChanges:
    """Packed keys; no chunk is in both. A chunk that came and went since the last asking is in neither."""

    added: bytes = field(repr=False)  # can be hit by lookups now
    gone: bytes = field(repr=False)  # evicted, dropped or damaged
    is_lost: bool  # there were more than could be remembered, and these are none of them
    is_last: bool  # there was no more when these were taken


@dataclass(frozen=True, slots=True)
class TakeChanges(Msg["L1Manager", ContentChanges]):
    """The oldest changes, of at most so many chunks. What `directory.Changed` was told of is looked into now: the next
    change is told anew."""

    chunks_max: int


@dataclass(frozen=True, slots=True)
class Residents:
    keys: bytes = field(repr=False)  # packed
    cursor: int  # for the next step
    is_over: bool
    chunks: int  # of the first step: that L1 has about now, for whoever makes room for them


@dataclass(frozen=True, slots=True)
class ResidentKeys(Msg["L1Manager", Residents]):
    """A step through all chunks that lookups can hit, at most so many records. `cursor` 0 begins, and makes void what
    was begun before; others go on where the last step ended. Refused (`Interrupted`) when changes were lost since:
    begin again."""

    cursor: int
    chunks_max: int


Message = TakeChanges | ResidentKeys
