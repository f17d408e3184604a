r"""The actor: an object that is only ever touched through its mailbox.

    class Counter(Actor[Add | Total]):
        def __init__(self) -> None:
            self._sum = 0

        def receive(self, msg: Add | Total) -> object:      # def: a critical section
            match msg:
                case Add():
                    self._sum += msg.amount
                    return answer(msg, None)
                case Total():
                    return answer(msg, self._sum)
                case _:
                    assert_never(msg)

Life, from the supervisor's side (`live`):

    factory() -> on_start() -> ready -> receive(msg)* -> on_stop() -> gone
         \            \                   \                \
          '------------'-------------------'----------------'--> Crash: askers hear ActorCrashed
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, TypeVarTuple

from anyio import create_task_group
from anyio.abc import TaskGroup

from penstock.runtime.deadline import INHERITED
from penstock.runtime.errors import (
    ActorCrashed,
    ActorStopped,
    PenstockError,
    forget_frames,
    forget_traceback,
)
from penstock.runtime.mailbox import Mailbox
from penstock.runtime.message import NOT_AT_ONCE
from penstock.runtime.service import Service, choose_service, is_being_cancelled

M = TypeVar("M")
Args = TypeVarTuple("Args")


class Actor(Generic[M]):
    """Base of all actors; `M` is the union of the messages it takes.

    Whether `receive` is a `def` (a critical section: nothing else of the actor runs meanwhile) or
    an `async def` (it may wait) is decided by its definition, once per class.
    """

    inflight_max: ClassVar[int] = 1  # 1: serial. More: shared state may change only between awaits.
    service: ClassVar[Service]  # chosen from `receive` and `inflight_max`
    _background: TaskGroup | None = None  # set from on_start to the end of on_stop

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.service = choose_service(cls.__name__, cls.receive, cls.inflight_max)

    def receive(self, msg: M) -> object:
        """Serve one message and return its answer.

        A PenstockError is an answer, too; anything else that is raised is a bug and ends the actor.
        """
        raise NotImplementedError

    def receive_at_once(self, msg: M) -> object:
        """For an actor that serves many messages at a time: the answer to one for which nothing need be waited for.

        Called in the asker's own step, between the steps of other handlers. NOT_AT_ONCE, if it is for `receive`:
        then nothing has been changed.
        """
        return NOT_AT_ONCE

    async def on_start(self) -> None:
        """Get ready.

        Messages are served, and the next sibling is started, only when this has returned.
        """

    async def on_stop(self) -> None:
        """Let go in order, after the last message. Not called after a crash."""

    def start_soon(
        self,
        work: Callable[[*Args], Coroutine[Any, Any, object]],
        *args: *Args,
        name: str | None = None,
    ) -> None:
        """Run `work` beside the messages, from `on_start` on.

        It inherits no deadline, and is cancelled after `on_stop`. Whatever it raises, a
        PenstockError included, ends the actor.
        """
        assert self._background is not None, "start_soon is for an actor that is running"
        name = name or getattr(work, "__qualname__", "work")
        self._background.start_soon(_on_its_own_clock, work, args, name=name)

    async def _serve(self, mailbox: Mailbox) -> None:
        await type(self).service(self.receive, self.receive_at_once, self.inflight_max, mailbox)


async def _on_its_own_clock(
    work: Callable[[*Args], Coroutine[Any, Any, object]], args: tuple[*Args]
) -> None:
    """What the work holds, it holds no longer than it runs: neither the frames of a bug nor those of its cancellation,
    which anyio keeps in a circle, are to hold leases until the collector comes by. What a bug's closures refer to goes
    with the next bug: the supervisor keeps its places, and so the frames' functions."""
    INHERITED.set(math.inf)  # it outlives the message that may have caused it
    running = work(*args)
    del work, args
    try:
        await running
    except asyncio.CancelledError as given_up:
        forget_frames(given_up)
        forget_traceback(given_up)  # nobody is told of it, and cleared frames still hold closures
        raise


class EndedEarly(RuntimeError):
    """A bug: an actor's tasks came to an end before its mailbox was closed."""


@dataclass(frozen=True, slots=True)
class Crash:
    """An actor's end by a bug."""

    name: str
    bug: BaseException
    was_ready: bool  # False: it died in its constructor or on_start

    def error(self) -> PenstockError:
        """What the askers hear."""
        return ActorCrashed(f"{self.name} died of {self.bug!r}")


async def live(
    factory: Callable[[], Actor[Any]], mailbox: Mailbox, on_ready: Callable[[], None]
) -> Crash | None:
    """One life of an actor: until its mailbox is closed and served to the end (None), or until it
    dies.

    Cancelled from outside, it tells every asker ActorStopped.
    """
    INHERITED.set(math.inf)  # whoever started the actor had a deadline; the actor has none
    was_ready = False
    try:
        actor = factory()
        async with create_task_group() as background:
            actor._background = background  # noqa: SLF001 - given by its only owner
            await actor.on_start()
            was_ready = True
            on_ready()
            await actor._serve(mailbox)  # noqa: SLF001
            await actor.on_stop()
            background.cancel_scope.cancel()
        if not mailbox.is_closed:
            raise EndedEarly(f"{mailbox.name}: a task of it was cancelled by none of its own")
    except BaseException as bug:  # the one place: an actor must not die unheard
        if isinstance(bug, asyncio.CancelledError) and is_being_cancelled():
            mailbox.fail_asks(lambda: ActorStopped(f"{mailbox.name}: stopped before it answered"))
            raise
        crash = Crash(mailbox.name, _innermost(bug), was_ready)
        mailbox.fail_asks(crash.error)
        if not isinstance(bug, (Exception, asyncio.CancelledError)):
            raise  # the process is asked to end
        return crash
    return None


def _innermost(bug: BaseException) -> BaseException:
    """The bug itself, if the task groups around it wrapped nothing else."""
    while isinstance(bug, BaseExceptionGroup) and len(bug.exceptions) == 1:
        bug = bug.exceptions[0]
    return bug
