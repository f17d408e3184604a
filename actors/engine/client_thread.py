"""The thread on which the client of an engine without an event loop lives, and the futures of those who wait for it.

Every future is settled, whatever becomes of the thread: with ClientClosed when it is closed first, with ClientCrashed
when a bug ends it. An error of one request, one that nobody foresaw too, is that request's alone.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup
from grpc import aio

from penstock.actors.engine.client import Client
from penstock.actors.engine.errors import ClientClosed, ClientCrashed, TooManyWaiting
from penstock.actors.engine.failing import Failing
from penstock.actors.engine.forks import HomeProcess
from penstock.runtime.errors import CallerError, PenstockError
from penstock.runtime.log import Log

T = TypeVar("T")
Request = Callable[[], Coroutine[Any, Any, T]]


@contextmanager
def _own_poller() -> Iterator[None]:
    """Has gRPC start its thread now, and keep it between connections.

    In Python 3.12 an exiting process can start no thread any more, not even from atexit, where an engine that forgot
    to close is closed: gRPC, which starts one for the first of its channels, then ends the process by a segmentation
    fault if it is just connecting.
    """
    aio.init_grpc_aio()
    try:
        yield
    finally:
        aio.shutdown_grpc_aio()


class ClientThread:
    """Runs a client's coroutines for any number of other threads.

    field      guard    who reads it without, and why that is safe
    _waiting   _lock    -
    _ended     _lock    -
    _tasks     loop     its thread only; set before _started is settled
    _loop      -        written once, before _started is settled, which `start` waits for
    _context   -        as _loop; a task is begun in it: where sniffio is installed, it says which loop this is
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting_max = client.config.waiting_max
        self._home = HomeProcess()
        self._log = Log("engine")
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()  # not settled yet; len <= _waiting_max
        self._ended: PenstockError | None = None  # why nothing can be asked any more
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: Context | None = None
        self._closing: asyncio.Event | None = None
        self._tasks: TaskGroup | None = None
        # A daemon: an engine that forgets to close must still be able to exit; atexit then closes in order.
        self._thread = threading.Thread(target=self._run, name="penstock client", daemon=True)

    def start(self) -> None:
        """Begin, and attach. Raises what entering the client raises."""
        self._thread.start()
        self._started.result()

    def close(self) -> None:
        """Give up what is under way, leave the node in order, end. Idempotent; from any thread of this process.

        Waits for the end, except on this thread itself (in a future's callback).
        """
        if not self._home.is_here:
            return
        with self._lock:
            if self._ended is None:
                self._ended = ClientClosed("the client was closed: make a new one")
                assert self._loop is not None
                assert self._closing is not None
                self._loop.call_soon_threadsafe(self._closing.set)
        if not self.is_current:
            self._thread.join()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread."""
        return self._thread is threading.current_thread()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests whose futures are not settled yet, or are cancelled and still being given up."""
        with self._lock:
            return len(self._waiting)

    def check_may_wait(self) -> None:
        """Raises CallerError on this thread: whoever waits there for a request waits for ever."""
        if self.is_current:
            raise CallerError(
                "a future's callback runs on the client's own thread and must not wait for a request:"
                " do that on another thread"
            )

    # From the callers' threads to this one. Whoever takes a future out of _waiting settles it.

    def submit(self, request: Request[T]) -> Future[T]:
        """Run `request` here. Raises ClientClosed, ClientCrashed, ForkedClient, TooManyWaiting."""
        self._home.check()
        future: Future[T] = Future()
        with self._lock:
            if self._ended is not None:
                raise type(self._ended)(str(self._ended))
            if self._loop is None:
                raise ClientClosed("the client is not connected: call connect() first")
            if len(self._waiting) >= self._waiting_max:
                raise TooManyWaiting(
                    f"{self._waiting_max} requests are not answered yet, and waiting_max allows no more:"
                    " wait for some of their futures first, or raise waiting_max"
                )
            self._waiting.add(future)
            # Under the lock: the loop is closed only after _ended was set.
            self._loop.call_soon_threadsafe(self._begin, request, future, context=self._context)
        return future

    def do_soon(self, act: Callable[[], None]) -> None:
        """Call `act` here, before whatever is submitted later. Never waits, never fails; does nothing once ended."""
        if not self._home.is_here:
            return
        with self._lock:
            if self._ended is None and self._loop is not None:
                self._loop.call_soon_threadsafe(act, context=self._context)

    def _begin(self, request: Request[T], future: Future[T]) -> None:
        assert self._tasks is not None
        if self._ended is None:  # else _settle_all will see to the future
            self._tasks.start_soon(self._serve, request, future)

    async def _serve(self, request: Request[T], future: Future[T]) -> None:
        with CancelScope() as scope:
            future.add_done_callback(partial(self._hear_cancelled, scope))
            with Failing(partial(self._fail, future)):
                self._settle(future, result=await request())
        if future.cancelled():
            self._settle(future)

    def _fail(self, future: Future[Any], error: Exception) -> None:
        if not isinstance(error, PenstockError):
            self._log.crash("bug_in_request", error)
        self._settle(future, error=error)

    def _hear_cancelled(self, scope: CancelScope, future: Future[Any]) -> None:
        """On the thread that cancelled the future, or settled it."""
        with self._lock:
            if future.cancelled() and self._ended is None:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(scope.cancel)

    def _settle(
        self, future: Future[Any], *, result: object = None, error: Exception | None = None
    ) -> None:
        with self._lock:
            if future not in self._waiting:
                return
            self._waiting.discard(future)
        if not future.set_running_or_notify_cancel():
            return  # it was cancelled; a ticket or lease that was its result ends itself
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    # This thread.

    def _run(self) -> None:
        try:
            anyio.run(self._live)
        except PenstockError as refused:
            if self._started.done():
                raise
            self._started.set_exception(refused)
        finally:
            self._settle_all(sys.exception())

    async def _live(self) -> None:
        self._loop, self._context = asyncio.get_running_loop(), copy_context()
        self._closing = asyncio.Event()
        with _own_poller():
            await self._serve_until_closed()

    async def _serve_until_closed(self) -> None:
        assert self._closing is not None
        async with self._client:
            try:
                async with create_task_group() as tasks:
                    self._tasks = tasks
                    self._started.set_result(None)
                    await self._closing.wait()
                    tasks.cancel_scope.cancel()
            finally:
                with self._lock:
                    self._ended = self._ended or ClientCrashed("the client's thread is ending")

    def _settle_all(self, bug: BaseException | None) -> None:
        """Nobody serves any more: say so to everybody who waits, and to everybody who comes."""
        with self._lock:
            if bug is not None:
                self._ended = ClientCrashed(f"the client's thread died of {bug!r}: make a new one")
            reason = self._ended = self._ended or ClientClosed("the client never attached")
            waiting = list(self._waiting)
        for future in waiting:
            self._settle(future, error=type(reason)(str(reason)))
        if not self._started.done():
            self._started.set_exception(reason)
