"""How an actor's messages are served: three loops, one of which is chosen when the actor's class is
made.

    receive is   inflight_max   loop
    def          1              serve_sync: in the actor's task, one after the other
    async def    1              serve_serial: the same; a waiting handler holds up the next message
    async def    more           serve_concurrent: a task per message

The first two start no task per message: a handler that does not wait costs no more than a call. All
three serve under the asker's deadline, answer PenstockErrors, and let anything else through: that
ends the actor.
"""

from __future__ import annotations

import asyncio
import inspect
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, NoReturn, cast

from anyio import CancelScope, create_task_group

from penstock.runtime.deadline import INHERITED
from penstock.runtime.errors import PenstockError, forget_frames, forget_traceback
from penstock.runtime.mailbox import Mailbox
from penstock.runtime.message import Envelope

Receive = Callable[[Any], object]
AsyncReceive = Callable[[Any], Awaitable[object]]
Service = Callable[[Receive, Receive, int, Mailbox], Awaitable[None]]

BURST_S = 0.001  # a full mailbox is served this long before the rest of the loop gets its turn
BEGUN_A_STEP = 16  # handlers; some tens of microseconds each


class StrayCancellation(RuntimeError):
    """A bug: a handler awaited a future or task that others cancelled, and let that pass as its own
    end.
    """


def choose_service(name: str, receive: Callable[..., object], inflight_max: int) -> Service:
    """The loop for a class called `name`. Raises TypeError for a combination that means nothing."""
    if inflight_max < 1:
        raise TypeError(f"{name}: inflight_max must be at least 1, not {inflight_max}")
    if inspect.iscoroutinefunction(receive):
        return serve_serial if inflight_max == 1 else serve_concurrent
    if inflight_max != 1:
        raise TypeError(f"{name}: a `def receive` is a critical section, its inflight_max is 1")
    return serve_sync


async def serve_sync(
    receive: Receive, _at_once: Receive, _inflight_max: int, mailbox: Mailbox
) -> None:
    """Serve until the mailbox is closed and empty; handlers cannot wait."""
    loop = asyncio.get_running_loop()

    def at_once(msg: Any) -> object:
        result = receive(msg)
        if type(result) is CoroutineType:
            _refuse_to_wait(mailbox, result)
        return result

    idle = _unless_permuted(at_once)
    while await mailbox.wait_message(idle):
        burst_ends = loop.time() + BURST_S
        while (envelope := mailbox.take()) is not None:
            INHERITED.set(envelope.deadline)
            try:
                result = receive(envelope.msg)
            except PenstockError as error:
                _refuse(mailbox, envelope, error)
            else:
                if type(result) is CoroutineType:
                    _refuse_to_wait(mailbox, result)
                envelope.settle(result)
                del result  # what an answer holds must not last until the next one
            mailbox.done(envelope)
            if loop.time() >= burst_ends:
                await asyncio.sleep(0)
                burst_ends = loop.time() + BURST_S


async def serve_serial(
    receive: Receive, _at_once: Receive, _inflight_max: int, mailbox: Mailbox
) -> None:
    """Serve until the mailbox is closed and empty; one handler at a time, which may wait.

    One cancel scope lasts until an asker gives up: making one for every message would cost as much
    as the rest of an ask.
    """
    handler = cast(AsyncReceive, receive)
    while await mailbox.wait_message():
        with CancelScope() as scope:
            await _serve_until_called_off(handler, mailbox, scope)


async def _serve_until_called_off(
    receive: AsyncReceive, mailbox: Mailbox, scope: CancelScope
) -> None:
    loop = asyncio.get_running_loop()
    while not scope.cancel_called and await mailbox.wait_message():
        burst_ends = loop.time() + BURST_S
        while not scope.cancel_called and (envelope := mailbox.take()) is not None:
            INHERITED.set(envelope.deadline)
            await _serve(receive, mailbox, envelope, scope)
            if loop.time() >= burst_ends:
                await asyncio.sleep(0)
                burst_ends = loop.time() + BURST_S


async def serve_concurrent(
    receive: Receive, at_once: Receive, inflight_max: int, mailbox: Mailbox
) -> None:
    """Serve until the mailbox is closed and empty, at most `inflight_max` handlers at a time.

    Shared state may change only between awaits. A bug in one handler ends them all, and the actor.
    """
    handler = cast(AsyncReceive, receive)
    idle = _unless_permuted(at_once)
    slots = _Slots(inflight_max)

    async def serve_one(envelope: Envelope) -> None:
        INHERITED.set(envelope.deadline)
        try:
            with CancelScope() as scope:
                if envelope.is_abandoned:
                    mailbox.done(envelope)
                else:
                    await _serve(handler, mailbox, envelope, scope)
        except CancelledError as given_up:
            forget_frames(given_up)  # the task keeps it, and its frames what the message holds
            forget_traceback(given_up)  # and closures, which frames keep when they are cleared
            raise
        finally:
            del envelope
        slots.release()

    async with create_task_group() as handlers:
        in_a_row = 0
        while True:
            await slots.wait_free()
            if not await mailbox.wait_message(idle):
                break
            taken = mailbox.take()
            if taken is None:
                continue
            slots.acquire()
            what = type(taken.msg).__name__
            handlers.start_soon(serve_one, taken, name=f"{mailbox.name}.{what}")
            del taken  # what a message holds must not last until the next one comes
            in_a_row = in_a_row + 1 if mailbox.queue else 0
            if in_a_row == BEGUN_A_STEP:
                await asyncio.sleep(0)
                in_a_row = 0


class _Slots:
    """For handlers. One task waits for them; what is free costs it no turn of the loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiter: asyncio.Future[None] | None = None

    async def wait_free(self) -> None:
        while not self._free:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def acquire(self) -> None:
        assert self._free, "no slot is free"
        self._free -= 1

    def release(self) -> None:
        self._free += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _unless_permuted(at_once: Receive) -> Receive | None:
    """A loop that permutes steps wants every hop to be one."""
    return None if getattr(asyncio.get_running_loop(), "permutes_steps", False) else at_once


async def _serve(
    receive: AsyncReceive, mailbox: Mailbox, envelope: Envelope, scope: CancelScope
) -> None:
    """Serve one message; cancelling `scope` calls the handler off.

    A bug leaves it among the serving.
    """
    envelope.scope = scope
    try:
        result = await receive(envelope.msg)
    except PenstockError as error:
        _refuse(mailbox, envelope, error)
    except CancelledError as cancelled:
        if scope.cancel_called:  # by the asker; otherwise the actor is stopping or dying
            mailbox.done(envelope)
        elif not is_being_cancelled():
            raise StrayCancellation(f"{mailbox.name}: awaited what was cancelled") from cancelled
        raise
    else:
        envelope.settle(result)
    envelope.scope = None
    mailbox.done(envelope)


def is_being_cancelled() -> bool:
    """Whether somebody cancels the current task; if not, a CancelledError in it is a stray one."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _refuse(mailbox: Mailbox, envelope: Envelope, error: PenstockError) -> None:
    """Answer with `error`; if nobody asked, somebody should still be able to find out."""
    envelope.fail(error)
    if envelope.reply is None:
        what = type(envelope.msg).__name__
        mailbox.log.warning_once("told_in_vain", what, message=what, error=repr(error))


def _refuse_to_wait(mailbox: Mailbox, result: CoroutineType[Any, Any, Any]) -> NoReturn:
    result.close()
    raise TypeError(f"{mailbox.name}: a receive that may wait must be an `async def`")
