"""NIXL, as the stores behind its storage plugins use it. Everything here blocks, and is called from threads.

A transfer moves parts of one object between our memory and a file or an object. It is posted, then looked at until it
is over, at growing intervals: NIXL has nothing that could be waited for. A transfer that can neither be finished nor
be taken back keeps its memory for as long as the agent lives.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.store import StoreRefused
from penstock.runtime.log import Log

INSTALL = "pip install penstock[nixl]"
PACKAGES = ("nixl_cu13", "nixl_cu12", "nixl")
PAUSE_MIN_S = 20e-6
_STORAGE = {"FILE_SEG", "OBJ_SEG"}
Parts: TypeAlias = Sequence[memoryview]  # of one object: its header, its payload


class Way(enum.Enum):
    """Of a transfer."""

    READ = "READ"
    WRITE = "WRITE"


class Medium(enum.Enum):
    """What a plugin stores in, and NIXL's name of it."""

    FILES = "FILE"
    OBJECTS = "OBJ"


@dataclass(frozen=True, slots=True)
class Remote:
    """Where an object is: an open file, or a name under a number of its own."""

    number: int
    size_bytes: int  # of what is moved
    name: str = ""
    start: int = 0  # of it there


class Agent:
    """One agent with one plugin. For several threads: NIXL locks itself."""

    def __init__(self, config: NixlConfig, name: str) -> None:
        """Raises StoreRefused: no library, no such plugin, or parameters it does not take; NixlFailed."""
        self._api = _load(config)
        self._config = config
        settings = self._api.nixl_agent_config(
            enable_prog_thread=False,
            backends=[],
            sync_mode=self._api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT,
        )
        self._name = name
        self._errors = self._known_errors()
        try:
            self._agent: Any = self._api.nixl_agent(name, settings)
        except self._errors as error:
            raise NixlFailed(f"no agent can be made: {error}") from None
        kinds = self._kinds(config.plugin)
        try:
            self._agent.create_backend(config.plugin, config.parameters)
        except self._errors as error:
            problem = f"{config.plugin} does not take its parameters ({error}); it names what is "
            problem += "missing on the standard error"
            raise StoreRefused(f"stores.{config.name}.parameters", problem) from None
        self.medium = Medium.FILES if "FILE_SEG" in kinds else Medium.OBJECTS
        self._plugins = [config.plugin]
        self._lasting = range(0)
        self._log = Log(f"store.{config.name}")
        self._pause = threading.Event()  # never set
        self._kept: list[
            tuple[Any, object]
        ] = []  # what transfers may still touch that could not be ended

    def register(self, memory: memoryview) -> None:
        """Tell NIXL of memory once, not with every transfer. Raises NixlFailed."""
        start, size = _place(memory)
        try:
            self._agent.register_memory([(start, size, 0, "")], "DRAM", self._plugins)
        except self._errors as error:
            raise NixlFailed(f"memory cannot be told: {error}") from None
        self._lasting = range(start, start + size)

    def close(self) -> None:
        """When nothing is under way. May take long: a plugin ends its threads and gives its memory back. Idempotent."""
        self._agent = None
        memory = [keep for _, keep in self._kept]  # for as long as a handle keeps what may touch it
        self._kept.clear()
        del memory

    def move(self, way: Way, objects: Sequence[tuple[Parts, Remote, object]]) -> list[str]:
        """Move the parts of each object, one after the other from its beginning. Ends when all of them have.

        What became of each: empty when it was moved whole, or what NIXL says. The third of each is kept for as long
        as its memory may be touched.
        """
        if not objects:
            return []
        transfers = [_Transfer() for _ in objects]
        all_, remotes = [parts for parts, _, _ in objects], [remote for _, remote, _ in objects]
        with self._known(all_, remotes) as problem:
            if problem:
                return [problem] * len(objects)
            for transfer, (parts, remote, _) in zip(transfers, objects, strict=True):
                self._post(transfer, way, parts, remote)
            self._wait([one for one in transfers if one.is_under_way])
            for transfer, keep in zip(transfers, objects, strict=True):
                self._release(transfer, keep)
        return [one.problem for one in transfers]

    def exist(self, names: Sequence[str]) -> list[bool]:
        """Of a plugin of objects. Raises NixlFailed."""
        asked = [(0, 0, 0, name) for name in names]
        try:
            found = self._agent.query_memory(asked, self._config.plugin, Medium.OBJECTS.value)
        except self._errors as error:
            raise NixlFailed(f"{error}") from None
        return [one is not None for one in found]

    def _known_errors(self) -> tuple[type[Exception], ...]:
        """Those of NIXL, and what its bindings make of any other error of C++."""
        bindings = importlib.import_module(f"{self._api.__package__}._bindings")
        own = (one for name, one in vars(bindings).items() if name.endswith("Error"))
        return (*own, RuntimeError)

    def _kinds(self, plugin: str) -> set[str]:
        """What memory it takes. Raises StoreRefused unless the plugin is there and loads."""
        there = self._agent.get_plugin_list()
        kinds = set(self._agent.get_plugin_mem_types(plugin)) if plugin in there else set()
        if kinds.isdisjoint(_STORAGE):
            usable = [
                one for one in there if _STORAGE.intersection(self._agent.get_plugin_mem_types(one))
            ]
            problem = f"there is no storage plugin {plugin} that loads here; there are: "
            raise StoreRefused(f"stores.{self._config.name}.plugin", problem + ", ".join(usable))
        return kinds

    @contextmanager
    def _known(self, all_: Sequence[Parts], remotes: Sequence[Remote]) -> Iterator[str]:
        """NIXL told of this memory, and of these files or objects. Empty, or why not."""
        places = {_place(part) for parts in all_ for part in parts if part.nbytes}
        brief = [(*one, 0, "") for one in places if one[0] not in self._lasting]
        there = [(one.start, one.size_bytes, one.number, one.name) for one in remotes]
        told, problem = [], ""
        try:
            for what, kind in ((brief, "DRAM"), (there, self.medium.value)):
                if what:
                    told.append(self._agent.register_memory(what, kind, self._plugins))
        except self._errors as error:
            problem = f"memory cannot be told: {error}"
        try:
            yield problem
        finally:
            for one in told:
                self._forget(one)

    def _forget(self, told: Any) -> None:
        try:
            self._agent.deregister_memory(told, self._plugins)
        except self._errors as error:  # what was moved was moved
            self._log.warning_once("memory_not_forgotten", reason=f"{error}")

    def _post(self, transfer: _Transfer, way: Way, parts: Parts, remote: Remote) -> None:
        local, there, offset = [], [], remote.start
        for part in filter(len, parts):
            start, size = _place(part)
            local.append((start, size, 0))
            there.append((offset, size, remote.number))
            offset += size
        agent = self._agent
        try:
            transfer.handle = agent.initialize_xfer(
                way.value,
                agent.get_xfer_descs(local, "DRAM"),
                agent.get_xfer_descs(there, self.medium.value),
                self._name,
                b"",
                self._plugins,
            )
            transfer.see(agent.transfer(transfer.handle))
        except self._errors as error:
            transfer.problem = f"{error}"

    def _wait(self, under_way: list[_Transfer]) -> None:
        pause_s = PAUSE_MIN_S
        while under_way:
            for one in under_way:
                try:
                    one.see(self._agent.check_xfer_state(one.handle))
                except self._errors as error:
                    one.problem, one.is_under_way = f"{error}", False
            still = [one for one in under_way if one.is_under_way]
            pause_s = PAUSE_MIN_S if len(still) < len(under_way) else pause_s * 2
            under_way = still
            if under_way:
                self._pause.wait(min(pause_s, self._config.pause_max))

    def _release(self, transfer: _Transfer, keep: object) -> None:
        if transfer.handle is None:
            return
        try:
            transfer.handle.release()
        except self._errors as error:
            transfer.problem = transfer.problem or f"{error}"
            self._kept.append((transfer.handle, keep))


class NixlFailed(Exception):
    """Theirs: what a plugin answered for a whole batch."""


class _Transfer:
    """Of one object."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.is_under_way = False
        self.problem = ""

    def see(self, state: str) -> None:
        self.is_under_way = state == "PROC"
        if state == "ERR":
            self.problem = "the transfer failed"


def _load(config: NixlConfig) -> Any:
    """The library, told what to log: its native part looks into the environment, its Python part has a logger."""
    os.putenv("NIXL_LOG_LEVEL", config.log.name)
    for package in PACKAGES:
        try:
            api = importlib.import_module(f"{package}._api")
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            problem = f"the library does not load: {error}"
            raise StoreRefused(f"stores.{config.name}.type", problem) from None
        api.logger.setLevel(logging.CRITICAL)  # what it would say is raised, too
        return api
    problem = f"the library is missing: {INSTALL}"
    raise StoreRefused(f"stores.{config.name}.type", problem)


def _place(view: memoryview) -> tuple[int, int]:
    """Address and size of writable memory that is not empty."""
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(view)), view.nbytes
