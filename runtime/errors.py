"""Every error this product raises on purpose, and how foreign ones become ours.

There are two kinds of error. A `PenstockError` is an operating error: expected, typed, returned to
whoever asked, shown to users. Anything else is a bug: it kills the actor it happens in (see
`penstock.runtime.supervisor`).

A class name tells whose deed it was, and the branch tells what to do about it:

    PenstockError
     |- CallerError       yours: the request can never succeed as it is. Change it.
     |- CapacityError     nobody's: there is no room now. Less, later, or elsewhere.
     |- UnavailableError  theirs: the other side is gone or broken. Another one, or later.
     |- StaleError        history: it was right once. Throw it away and start over.
     '- DeadlineExceeded  time: the answer would come too late to be of use.

Other packages derive their errors from these branches, so that a border (gRPC, the command line)
maps five classes and never a list of all of them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager


class PenstockError(Exception):
    """Operating error: expected, typed, returned to the asker. Never restarts an actor."""


class CallerError(PenstockError):
    """Yours: the request can never succeed as it is."""


class CapacityError(PenstockError):
    """Nobody's: no room now. Ask for less, later, or elsewhere."""


class UnavailableError(PenstockError):
    """Theirs: the other side is gone, broken, or not ready."""


class StaleError(PenstockError):
    """History: it was right once, and something newer took its place."""


class DeadlineExceeded(PenstockError):
    """Time: the deadline passed before the answer came.

    Whatever was under way has been cancelled.
    """


class ConfigError(CallerError):
    """Yours: a configuration that cannot be used. The message names the path of the key."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path  # dotted, as in "l1.bytes_max"; empty for the document as a whole
        self.problem = problem


class MailboxFull(CapacityError):
    """Nobody's: the actor has as many messages waiting as its mailbox holds."""


class ActorCrashed(UnavailableError):
    """Ours: the actor died of a bug while your message was with it.

    It may or may not have taken effect.
    """


class ActorStopped(UnavailableError):
    """Theirs: the actor was stopped in order, or was given up by its supervisor; it takes no
    messages.
    """


class StartFailed(UnavailableError):
    """Theirs: a child did not become ready. Nothing that was started before it is left running."""


class Escalated(UnavailableError):
    """Ours: an actor crashed more often than its intensity allows; its siblings were stopped in
    order.
    """


def forget_frames(error: BaseException) -> None:
    """Let go of whatever the frames that `error` came through still hold, and those of the errors behind it.

    For errors that are kept, and where what a frame holds is given back when nobody holds it any more. The places
    stay: a traceback can still be printed.
    """
    behind, seen = [error], set[int]()
    while behind:
        one = behind.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        behind += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            behind += one.exceptions


def forget_traceback(error: BaseException) -> None:
    """As `forget_frames`, and the places, too: for errors that nobody is told of.

    A frame goes on to hold its function, and with it all that a closure refers to; and one of a coroutine that has not
    ended would be ended by being cleared.
    """
    behind: list[BaseException | None] = [error]
    while behind:
        one = behind.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            behind += [one.__cause__, one.__context__]


Translation = Callable[[str], PenstockError]


def mapped(
    translations: Mapping[type[BaseException], Translation],
) -> AbstractContextManager[None]:
    """Translate foreign errors into ours, once, at the border.

        with mapped({FileNotFoundError: ObjectMissing, OSError: StoreFailed}):
            ...

    The entry of the most derived class wins, whatever the order of the table. The foreign error
    stays reachable as `__cause__`. A `PenstockError` is already ours and passes through.
    """
    return _Mapped(translations)


class _Mapped:
    """A class: every message crosses a border, and as a generator it would cost several times as much."""

    __slots__ = ("_translations",)

    def __init__(self, translations: Mapping[type[BaseException], Translation]) -> None:
        self._translations = translations

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, foreign: BaseException | None, _: object
    ) -> None:
        if kind is None or foreign is None or issubclass(kind, PenstockError):
            return
        for base in kind.__mro__:
            if base in self._translations:
                raise self._translations[base](_said_by(foreign)) from foreign


def _said_by(foreign: BaseException) -> str:
    """The foreign error's own words, with its class, since many say nothing without it."""
    words = str(foreign)
    name = type(foreign).__name__
    return f"{name}: {words}" if words else name
