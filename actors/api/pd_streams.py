"""Calls of `pd.proto` that other nodes make here, as the receiver of their pushes hears of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from penstock.actors.api.pd_wire import Word
from penstock.runtime.channel import Connection
from penstock.runtime.message import Msg

if TYPE_CHECKING:
    from penstock.actors.api.pd import PdReceiver  # noqa: F401 - messages are addressed to it


class PdStream(Protocol):
    """One call, and the data connection of its link."""

    @property
    def node_id(self) -> str: ...

    @property
    def connection(self) -> Connection: ...

    def say(self, word: Word) -> None:
        """Soon, in order. Never waits: one that is over says nothing, and one whose reader is too slow ends."""


@dataclass(frozen=True, slots=True)
class Heard(Msg["PdReceiver", None]):
    stream: PdStream
    word: Word


@dataclass(frozen=True, slots=True)
class StreamOver(Msg["PdReceiver", None]):
    """Nothing more is heard from it, or said."""

    stream: PdStream


StreamMessage = Heard | StreamOver
