"""The client for engines that have no event loop: the same requests, answered by `concurrent.futures.Future`s.

    with BlockingClient.connect(config, spec) as client:
        ticket = client.lookup(tokens).result()
        loaded = client.load(ticket, [layout], [block_ids]).result()

The asynchronous client runs on a thread of its own. Every future is settled, whatever becomes of that thread: with
ClientClosed when the client is closed first, with ClientCrashed when a bug ends the thread. An error of one request,
one that nobody foresaw too, is that request's alone. Cancelling a future gives the request up, and leaks nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup

from penstock._native import PagedLayout
from penstock.actors.engine.accounts import ClientStatistics
from penstock.actors.engine.answers import Saves
from penstock.actors.engine.client import Client, Prefetched
from penstock.actors.engine.config import ClientConfig
from penstock.actors.engine.copying import BlockIds
from penstock.actors.engine.counting import Loaded, Stored
from penstock.actors.engine.errors import ClientClosed, ClientCrashed
from penstock.actors.engine.failing import Failing
from penstock.actors.engine.forks import HomeProcess
from penstock.actors.engine.spec import EngineSpec
from penstock.actors.engine.ticket import Ticket, TicketHandle
from penstock.actors.keys import Tokens
from penstock.protos import engine_pb2
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log

T = TypeVar("T")
Request = Callable[[], Coroutine[Any, Any, T]]


class BlockingClient:
    """One engine process's client, for any number of threads.

    field      guard    who reads it without, and why that is safe
    _waiting   _lock    -
    _ended     _lock    -
    _tasks     loop     its thread only; set before _started is settled
    _loop      -        written once, before _started is settled, which `connect` waits for
    _context   -        as _loop; a task is begun in it: where sniffio is installed, it says which loop this is
    """

    def __init__(self, config: ClientConfig, spec: EngineSpec) -> None:
        self._client = Client.connect(config, spec)
        self._home = HomeProcess()
        self._log = Log("engine")
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._ended: PenstockError | None = None  # why nothing can be asked any more
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: Context | None = None
        self._closing: asyncio.Event | None = None
        self._tasks: TaskGroup | None = None
        # A daemon: an engine that forgets to close must still be able to exit; atexit then closes in order.
        self._thread = threading.Thread(target=self._run, name="penstock client", daemon=True)

    @classmethod
    def connect(cls, config: ClientConfig, spec: EngineSpec) -> Self:
        """Start the thread and attach. Raises what entering `Client.connect` raises."""
        client = cls(config, spec)
        client._thread.start()
        client._started.result()
        atexit.register(client.close)
        return client

    def close(self) -> None:
        """Give up what is under way, leave the node in order, end the thread. Idempotent; from any thread.

        Waits for the end, except where a future's callback calls it: that is on the client's own thread.
        """
        atexit.unregister(self.close)
        if not self._home.is_here:
            return
        with self._lock:
            if self._ended is None:
                self._ended = ClientClosed("the client was closed: make a new one")
                assert self._loop is not None
                assert self._closing is not None
                self._loop.call_soon_threadsafe(self._closing.set)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Requests: see Client for arguments, results and errors.

    def lookup(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        readers: int = 1,
        request_id: str = "",
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        within: float | None = None,
    ) -> Future[Ticket]:
        """`Client.lookup`. The ticket's numbers may be read on any thread; wait and end it through this client."""
        return self._submit(
            lambda: self._client.lookup(
                tokens,
                keys=keys,
                readers=readers,
                request_id=request_id,
                salt=salt,
                adapter=adapter,
                extras=extras,
                within=within,
            )
        )

    def ready(self, ticket: Ticket) -> Future[int]:
        """`Ticket.ready`: the final watermark in chunks."""

        async def wait() -> int:
            return await ticket.ready

        return self._submit(wait)

    def cancel(self, ticket: Ticket) -> Future[None]:
        """`Ticket.cancel`."""
        return self._submit(ticket.cancel)

    def join(self, handle: TicketHandle) -> Future[Ticket]:
        """`Client.join`."""

        async def join() -> Ticket:
            return self._client.join(handle)

        return self._submit(join)

    def load(
        self,
        ticket: Ticket,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        skip_tokens: int = 0,
        rank: int = 0,
        within: float | None = None,
    ) -> Future[Loaded]:
        """`Client.load`. The blocks must stay until the future is settled, even when it is cancelled."""
        return self._submit(
            lambda: self._client.load(
                ticket, layouts, block_ids, skip_tokens=skip_tokens, rank=rank, within=within
            )
        )

    def store(
        self,
        tokens: Tokens | None,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        keys: bytes | Sequence[bytes] | None = None,
        first_chunk: int = 0,
        request_id: str = "",
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        within: float | None = None,
    ) -> Future[Stored]:
        """`Client.store`. The blocks must not change until the future is settled."""
        return self._submit(
            lambda: self._client.store(
                tokens,
                layouts,
                block_ids,
                keys=keys,
                first_chunk=first_chunk,
                request_id=request_id,
                salt=salt,
                adapter=adapter,
                extras=extras,
                within=within,
            )
        )

    def prefetch(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        pin_s: float = 0.0,
        within: float | None = None,
    ) -> Future[Prefetched[Ticket]]:
        """`Client.prefetch`."""
        return self._submit(
            lambda: self._client.prefetch(
                tokens, keys=keys, salt=salt, adapter=adapter, pin_s=pin_s, within=within
            )
        )

    def touch(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        within: float | None = None,
    ) -> Future[int]:
        """`Client.touch`."""
        return self._submit(
            lambda: self._client.touch(tokens, keys=keys, salt=salt, adapter=adapter, within=within)
        )

    def wait_stored(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        within: float,
    ) -> Future[Saves]:
        """`Client.wait_stored`."""
        return self._submit(
            lambda: self._client.wait_stored(
                tokens, keys=keys, salt=salt, adapter=adapter, within=within
            )
        )

    def stat(self, *, within: float | None = None) -> Future[engine_pb2.StatReply]:
        """`Client.stat`."""
        return self._submit(lambda: self._client.stat(within=within))

    def health(self, *, within: float | None = None) -> Future[engine_pb2.HealthReply]:
        """`Client.health`."""
        return self._submit(lambda: self._client.health(within=within))

    def record(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
    ) -> Future[dict[str, object]]:
        """`Client.record`."""

        async def record() -> dict[str, object]:
            return self._client.record(tokens, keys=keys, salt=salt, adapter=adapter, extras=extras)

        return self._submit(record)

    def wait_attached(self, *, within: float) -> Future[None]:
        """`Client.wait_attached`."""
        return self._submit(lambda: self._client.wait_attached(within=within))

    @property
    def is_attached(self) -> bool:
        return self._client.is_attached

    @property
    def chunk_tokens(self) -> int:
        """`Client.chunk_tokens`."""
        return self._client.chunk_tokens

    def statistics(self) -> ClientStatistics:
        return self._client.statistics()

    # From the callers' threads to the client's. Whoever takes a future out of _waiting settles it.

    def _submit(self, request: Request[T]) -> Future[T]:
        self._home.check()
        future: Future[T] = Future()
        with self._lock:
            if self._ended is not None:
                raise type(self._ended)(str(self._ended))
            if self._loop is None:
                raise ClientClosed("the client is not connected: call connect() first")
            self._waiting.add(future)
            # Under the lock: the loop is closed only after _ended was set.
            self._loop.call_soon_threadsafe(self._begin, request, future, context=self._context)
        return future

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
            return  # it was cancelled; a ticket that was its result ends itself
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    # The client's thread.

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
