"""One agent of NIXL, and the one thread that calls it: NIXL waits for nothing, so it is looked at.

    loop                                        thread
    write(), tell(), meet() ── calls ─────────► made in their order
    heard(), futures        ◄──── at once ───── notifications, and transfers that are over

NIXL moves bytes only within its calls. The thread looks often for a while after something came, then twice as seldom
after each look that brought nothing, down to what is bearable while something is under way, or awaited, or nothing is.
A call wakes it. NIXL's own progress thread would take a third of a core for nothing.

| field | guard | who else reads it |
| _calls | deque: append and popleft are whole | both |
| _transfers, _kept | thread only | nobody |
| awaited | written by the loop; an old value costs one look | thread |
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from penstock.runtime.config import read_variable
from penstock.runtime.errors import StartFailed, UnavailableError

PAUSE_MIN_S = 20e-6  # for a while after a look that brought something: its answer may be on its way
LINGER_S = 0.005
MET_MAX = 4096  # remote metadata that is remembered; the oldest is forgotten first
STALE_MAX = 1024  # registrations that wait for a moment without transfers; then calls wait, too
INSTALL = "pip install penstock[nixl]"
Region: TypeAlias = tuple[int, int]  # address, size
Result = TypeVar("Result")


class NixlFailed(UnavailableError):
    """Theirs: what the library answered."""


@dataclass(frozen=True, slots=True)
class NixlOptions:
    """What a node decides about its NIXL channels. Times in seconds."""

    plugin: str = "UCX"
    parameters: dict[str, str] = field(default_factory=dict, repr=False)
    transfers_max: int = 64  # under way at a time
    look_busy: float = 0.0002  # between two looks, at most, while something of ours is under way
    look_awaiting: float = 0.001  # and while a landing is open
    look_idle: float = 0.05  # and while all is quiet
    close_within: float = 5.0  # a peer that does not say that it writes no more is cut off
    start_within: float = 30.0  # of the library's own start


@dataclass(slots=True)
class _Transfer:
    handle: Any
    over: asyncio.Future[None]
    keep: object  # memory that it may touch
    brief: Any  # registered for it alone


class NixlAgent:
    """Belongs to the running loop. `memory` is told to NIXL once, and stays mapped until `aclose` has returned."""

    def __init__(
        self, options: NixlOptions, memory: Region | None, hear: Callable[[str, bytes], None]
    ) -> None:
        """The library starts on the thread; see `wait_started`."""
        self.awaited = 0  # landings that are open
        self._options = options
        self._memory = memory
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        # Each waited for, or one word to a peer; and who waits.
        self._calls: deque[tuple[Callable[[], None], asyncio.Future[Any] | None]] = deque()
        self._wake = threading.Event()
        self._ended = self._loop.create_future()
        self._stopping = False
        self._transfers: list[_Transfer] = []
        self._met: dict[bytes, str] = {}  # names by metadata; len <= MET_MAX
        self._stale: list[Any] = []  # registrations that nobody wants any more; about STALE_MAX
        self._kept: list[_Transfer] = []  # that could not be ended
        self._api: Any = None
        self._errors: tuple[type[Exception], ...] = (StartFailed,)  # until NIXL's are known
        self._agent: Any = None
        self._registered: Any = None
        self._problem = ""
        self._is_started = threading.Event()
        self._started: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._run, name="nixl channels", daemon=True).start()

    # On the loop.

    def start(self) -> None:
        """Blocks until the library has started. Raises StartFailed."""
        if not self._is_started.wait(self._options.start_within):
            raise StartFailed(f"NIXL did not start within {self._options.start_within:g} s")
        if self._problem:
            raise StartFailed(self._problem)

    async def wait_started(self) -> None:
        """The same for the loop. Raises StartFailed."""
        await asyncio.shield(self._started)
        self.start()

    @property
    def metadata(self) -> bytes:
        """How to reach this agent, and its memory."""
        return self._metadata

    def covers(self, region: Region) -> bool:
        """Whether NIXL was told of it at the start."""
        if self._memory is None:
            return False
        begin, size = self._memory
        return begin <= region[0] and region[0] + region[1] <= begin + size

    def register(self, regions: Sequence[Region]) -> tuple[Any, bytes]:
        """Memory beside the arena: a handle for `forget`, and what a peer must know. Waits for the thread's call.

        Raises NixlFailed.
        """
        try:
            told = self._agent.register_memory(_described(regions), "DRAM", self._plugins)
            return told, self._agent.get_partial_agent_metadata(told, False, self._plugins)
        except self._errors as error:
            raise NixlFailed(f"memory cannot be told: {error}") from None

    def forget(self, told: Any) -> None:
        if not self._stopping:  # else it went with the agent
            self._call(lambda: self._stale.append(told))

    async def meet(self, metadata: bytes) -> str:
        """The name of the agent that has it. Raises NixlFailed."""

        def load() -> str:
            if (known := self._met.get(metadata)) is not None:
                return known  # what is under way by it is not to be disturbed
            name = self._agent.add_remote_agent(metadata)
            while len(self._met) >= MET_MAX:
                del self._met[next(iter(self._met))]
            return self._met.setdefault(metadata, name.decode())

        return await self._ask(load)

    async def tell(self, name: str, note: bytes) -> None:
        """Raises NixlFailed."""
        await self._ask(lambda: self._agent.send_notif(name, note))

    def write(
        self, name: str, pairs: Sequence[tuple[Region, int]], note: bytes, keep: object
    ) -> asyncio.Future[None]:
        """Write memory of ours to addresses of the agent `name`; `note` comes there when all is.

        Done when neither is touched any more; given up, it goes on. `keep` lives until then. Raises NixlFailed.
        """
        over: asyncio.Future[None] = self._loop.create_future()
        self._call(lambda: self._post(name, pairs, note, over, keep), over)
        return over

    async def aclose(self) -> None:
        """End it: when this has returned, no peer writes to memory of ours by it. Idempotent."""
        self._stopping = True
        self._wake.set()
        await asyncio.shield(self._ended)

    async def _ask(self, work: Callable[[], Result]) -> Result:
        answer: asyncio.Future[Result] = self._loop.create_future()

        def call() -> None:
            try:
                result = work()
            except self._errors as error:
                self._say(_fail, answer, NixlFailed(f"{error}"))
            else:
                self._say(_answer, answer, result)

        self._call(call, answer)
        return await answer

    def _call(self, call: Callable[[], None], answer: asyncio.Future[Any] | None = None) -> None:
        """`answer` hears of it, too, should the agent end before."""
        if self._stopping:
            raise NixlFailed("this agent is closed")
        self._calls.append((call, answer))
        self._wake.set()

    # On the thread.

    def _run(self) -> None:
        try:
            self._start()
        except self._errors as error:
            self._problem = f"{error}"
        self._is_started.set()
        self._say(_answer, self._started, None)
        pause_s, brought_at = PAUSE_MIN_S, 0.0
        try:
            while not (self._stopping or self._problem):
                brought, now = self._look(), time.monotonic()
                brought_at = now if brought else brought_at
                lingers = now - brought_at < LINGER_S
                pause_s = PAUSE_MIN_S if lingers else min(pause_s * 2, self._pause_max())
                self._wake.wait(pause_s)
                self._wake.clear()
        finally:
            self._stopping = True
            self._stop()
            self._say(_answer, self._ended, None)

    def _pause_max(self) -> float:
        if self._transfers:
            return self._options.look_busy
        return self._options.look_awaiting if self.awaited else self._options.look_idle

    def _start(self) -> None:
        api = self._api = _load()
        self._errors = (*_errors_of(api), StartFailed)
        plugin = self._options.plugin
        settings = api.nixl_agent_config(
            enable_prog_thread=False,
            backends=[],
            sync_mode=api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT,
        )
        self._plugins = [plugin]
        self._agent = api.nixl_agent(f"penstock-{secrets.token_hex(16)}", settings)
        if plugin not in self._agent.get_plugin_list():
            self._problem = f"there is no plugin {plugin} that loads here"
            return
        self._agent.create_backend(plugin, self._options.parameters)
        _leave_out_destructors()
        if self._memory is not None:
            self._registered = self._agent.register_memory(
                _described([self._memory]), "DRAM", self._plugins
            )
        self._metadata = bytes(self._agent.get_agent_metadata())

    def _stop(self) -> None:
        left, self._transfers = self._transfers, []
        for one in left:
            self._end(one, NixlFailed("the agent was closed"))
        while self._calls:  # that were never made
            _, answer = self._calls.popleft()
            if answer is not None:
                self._say(_fail, answer, NixlFailed("the agent was closed"))
        if self._registered is not None:
            self._stale.append(self._registered)
        self._deregister_stale()
        self._agent = None
        self._kept.clear()

    def _look(self) -> bool:
        """Whether there was anything to do."""
        brought = bool(self._calls)
        while self._calls and len(self._stale) < STALE_MAX:
            call, _ = self._calls.popleft()
            call()
        try:
            news = self._agent.get_new_notifs(self._plugins)
        except self._errors:
            news = {}  # of a peer that is gone: whoever tells it something will hear
        for name, notes in news.items():
            for note in notes:
                brought = True
                self._say(self._hear, name, bytes(note))
        still = [one for one in self._transfers if not self._is_over(one)]
        brought = brought or len(still) < len(self._transfers)
        self._transfers = still
        self._deregister_stale()
        return brought

    def _post(
        self,
        name: str,
        pairs: Sequence[tuple[Region, int]],
        note: bytes,
        over: asyncio.Future[None],
        keep: object,
    ) -> None:
        agent, brief = self._agent, None
        try:
            foreign = [mine for mine, _ in pairs if not self.covers(mine)]
            if foreign:
                brief = agent.register_memory(
                    _described(sorted(set(foreign))), "DRAM", self._plugins
                )
            local = agent.get_xfer_descs([(*mine, 0) for mine, _ in pairs], "DRAM")
            there = agent.get_xfer_descs([(at, mine[1], 0) for mine, at in pairs], "DRAM")
            handle = agent.initialize_xfer("WRITE", local, there, name, note, self._plugins)
            transfer = _Transfer(handle, over, keep, brief)
            state = agent.transfer(handle)
        except self._errors as error:
            if brief is not None:
                self._stale.append(brief)
            self._say(_fail, over, NixlFailed(f"{error}"))
            return
        if state == "DONE":
            self._end(transfer, None)
        else:
            self._transfers.append(transfer)

    def _is_over(self, transfer: _Transfer) -> bool:
        try:
            state = self._agent.check_xfer_state(transfer.handle)
        except self._errors as error:
            self._end(transfer, NixlFailed(f"{error}"))
            return True
        if state == "PROC":
            return False
        self._end(transfer, None if state == "DONE" else NixlFailed("a transfer failed"))
        return True

    def _end(self, transfer: _Transfer, error: NixlFailed | None) -> None:
        try:
            transfer.handle.release()
        except self._errors:
            self._kept.append(transfer)  # it may be touched for as long as the agent lives
            return self._say(_fail, transfer.over, NixlFailed("a transfer cannot be taken back"))
        if transfer.brief is not None:
            self._stale.append(transfer.brief)
        transfer.keep = None
        if error is None:
            return self._say(_answer, transfer.over, None)
        return self._say(_fail, transfer.over, error)

    def _deregister_stale(self) -> None:
        """While nothing is under way: NIXL may have taken any registration that covers a transfer's memory for it."""
        while self._stale and not self._transfers:
            with suppress(*self._errors):  # what was moved was moved
                self._agent.deregister_memory(self._stale.pop(), self._plugins)

    def _say(self, what: Callable[..., None], *about: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what, *about)


def _answer(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: NixlFailed) -> None:
    if not future.done():
        future.set_exception(error)


def _described(regions: Sequence[Region]) -> list[tuple[int, int, int, str]]:
    return [(begin, size, 0, "") for begin, size in regions]


def _load() -> Any:
    """Raises StartFailed."""
    os.putenv("NIXL_LOG_LEVEL", "FATAL")  # what it would say is raised, too
    if read_variable("UCX_TLS") is None:
        # No shared memory: by it a stopped sender goes on writing when our agent is long gone. Seen with cma.
        os.putenv("UCX_TLS", "^sm")
    finders: tuple[Callable[[], Any], ...] = (
        lambda: importlib.import_module("nixl_cu13._api"),
        lambda: importlib.import_module("nixl_cu12._api"),
    )
    for find in finders:
        try:
            api = find()
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            raise StartFailed(f"the library of nixl does not load: {error}") from None
        api.logger.setLevel(logging.CRITICAL)
        return api
    raise StartFailed(f"the library of nixl is missing: {INSTALL}")


def _leave_out_destructors() -> None:
    """Have `exit` end the process when it comes to what was registered before this: the libraries' destructors.

    UCX brings a libnl of its own beside the system's, and one of them crashes in there (seen with a bare agent, too).
    Python has flushed its files by then, and the status is kept: `_exit` takes it first, as handlers of on_exit(3) do.
    """
    libc = ctypes.CDLL(None)
    libc.on_exit(ctypes.cast(libc["_exit"], ctypes.c_void_p), None)


def _errors_of(api: Any) -> tuple[type[Exception], ...]:
    """Those of NIXL, and what its bindings make of any other error of C++."""
    own = (one for name, one in vars(api.nixlBind).items() if name.endswith("Error"))
    return (*own, RuntimeError)
