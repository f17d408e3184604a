"""The client library of Mooncake Store, as the mooncake store uses it. Everything here blocks.

The library says what became of each object by a number: bytes or 0, or a negative code. What of it was seen, and is
dealt with here:

- It makes and closes a client without letting go of the interpreter, which is 25 ms and a second, and as long as its
  timeouts when the master hangs. So a master is asked for a sign of life before, and a client stays until the process
  ends, whatever becomes of the stores that use it.
- It moves bytes from threads of its own. A transfer that failed may still be under way when the call returns, and so
  its memory is kept; a client that was given up because of too much of that is closed by its last user.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.store import StoreFault, StoreRefused

NO_REQUEST = bytes(64)
INSTALL = "pip install penstock[mooncake]"
Parts: TypeAlias = Sequence[memoryview]  # of one object: its header, its payload


class Code(enum.IntEnum):
    """What the library answers, of what matters here."""

    NO_ROOM = -200
    INVALID = -600
    NOT_READY = -703  # being written
    NOT_FOUND = -704
    EXISTS = -705
    LEASED = -706
    LEASE_EXPIRED = -707  # while it was read
    RPC_FAILED = -900
    RPC_TIMEOUT = -901
    TENANT_FULL = -1700


def is_over(code: int) -> bool:
    """Whether nothing of a transfer that was answered with `code` is under way."""
    return code >= 0 or code in Code.__members__.values()


@dataclass(frozen=True, slots=True)
class Connection:
    """What two stores must have in common to share a client. For the whole process, the first one decides `rpc_ms`,
    `connect_ms` and `log`: the library looks for them in the environment, once."""

    master: str
    address: tuple[str, int]
    metadata: str
    protocol: str
    devices: str
    host: str
    segment_bytes: int
    tenant: str
    replicas: int
    connect_ms: int
    rpc_ms: int
    log: str
    suspect_bytes_max: int

    @staticmethod
    def of(config: MooncakeConfig) -> Connection:
        return Connection(
            config.master,
            config.master_address(),
            config.metadata,
            config.protocol.value,
            config.devices,
            config.host,
            config.segment,
            config.tenant,
            config.replicas,
            int(config.connect_within * 1000),
            int(config.rpc_within * 1000),
            config.log.name,
            config.suspect_max,
        )


class Client:
    """One client of the library. Its methods may be called from several threads at a time."""

    def __init__(self, to: Connection) -> None:
        """Connect. Raises StoreRefused, StoreFault."""
        wheel = _load(to)
        _expect_life(to)
        self._client = wheel.MooncakeDistributedStore()
        if self._client.setup(_settings(to)) != 0:
            problem = f"Mooncake refuses a client of the master at {to.master}"
            raise StoreFault(f"{problem}; what it says is on the standard error")
        self._how = wheel.ReplicateConfig()
        self._how.replica_num = to.replicas
        self.memory = Memory(self._client)
        self.suspects: list[object] = []  # memory that failed transfers may still use
        self.suspect_bytes = 0
        self.users = 0

    def have(self, names: Sequence[str]) -> list[int]:
        """1, 0 or a negative code of each."""
        found: list[int] = self._client.batch_is_exist([*names])
        return found

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Bytes, or a negative code of each."""
        told = self.have(names)
        there = [name for name, found in zip(names, told, strict=True) if found == 1]
        known = self._client.batch_get_replica_desc([*dict.fromkeys(there)]) if there else {}

        def size(name: str, found: int) -> int:
            if found != 1:
                return found or Code.NOT_FOUND
            for one in known.get(name, ()):
                if one.is_memory_replica():
                    return int(one.get_memory_descriptor().buffer_descriptor.size)
            return int(self._client.get_size(name))

        return [size(name, found) for name, found in zip(names, told, strict=True)]

    def read(self, names: Sequence[str], into: Sequence[Parts]) -> list[int]:
        """Bytes, or a negative code, of each. `into` has room for exactly what is there, or nothing is read.

        The names differ: of one that is there twice, the library fills one place and says that it filled both.
        """
        assert len({*names}) == len(names)
        with self.memory.known(into):
            pointers, sizes = _places(into)
            read: list[int] = self._client.batch_get_into_multi_buffers([*names], pointers, sizes)
            return read

    def read_start(self, name: str, into: memoryview) -> int:
        """The first bytes of an object. How many, or a negative code."""
        with self.memory.known([[into]]):
            place, size = _place(into)
            read = self._client.get_into_ranges([place], [[name]], [[[0]]], [[[0]]], [[[size]]])
            return int(read[0][0][0])

    def write(self, names: Sequence[str], of: Sequence[Parts]) -> list[int]:
        """0 or a negative code of each. Whole, or not there; one that is there stays as it is, and counts as 0."""
        with self.memory.known(of):
            pointers, sizes = _places(of)
            wrote: list[int] = self._client.batch_put_from_multi_buffers(
                [*names], pointers, sizes, self._how
            )
            return wrote

    def remove(self, names: Sequence[str]) -> list[int]:
        """0 or a negative code of each. At once, even while others read them: their digests tell them."""
        removed: list[int] = self._client.batch_remove([*names], True)
        return removed

    def close(self) -> None:
        self._client.close()
        self.suspects.clear()


class SharedClient:
    """The client of a connection, for all stores and threads of the process."""

    def __init__(self, to: Connection) -> None:
        self._to = to
        self._client: Client | None = None
        self._arenas: list[memoryview] = []
        self._lock = threading.Lock()  # guards all of it

    @contextmanager
    def use(self) -> Iterator[Client]:
        """Raises StoreFault, StoreRefused when there is none and none can be made."""
        with self._lock:
            if self._client is None:
                self._client = Client(self._to)
                for arena in self._arenas:
                    self._client.memory.add(arena)
            client = self._client
            client.users += 1
        try:
            yield client
        finally:
            with self._lock:
                client.users -= 1
                is_last = client is not self._client and not client.users
            if is_last:
                client.close()

    def suspect(self, client: Client, memory: Sequence[object], size_bytes: int) -> None:
        """`client` may still touch `memory`: it lives until the client is closed, which is when it is too much."""
        with self._lock:
            client.suspects.extend(memory)
            client.suspect_bytes += size_bytes
            if client.suspect_bytes > self._to.suspect_bytes_max and client is self._client:
                self._client = None

    def register(self, arena: memoryview) -> None:
        """Tell the library of memory once, not with every transfer."""
        with self.use() as client, self._lock:
            self._arenas.append(arena)
            client.memory.add(arena)

    def forget(self, arena: memoryview) -> None:
        """When nothing of it is under way."""
        with self._lock:
            self._arenas.remove(arena)
            if self._client is not None:
                self._client.memory.drop(arena)


@cache
def shared_client(to: Connection) -> SharedClient:
    """The one of this process."""
    return SharedClient(to)


class Memory:
    """What the library was told of our memory, for transports that must know it beforehand."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._users: dict[tuple[int, int], int] = {}  # by address and size
        self._lasting: dict[tuple[int, int], range] = {}

    @contextmanager
    def known(self, all_: Sequence[Parts]) -> Iterator[None]:
        """While they are transferred. What is refused here is refused by the transfer, if that needs it."""
        places = {_place(part) for parts in all_ for part in parts if part.nbytes}
        lasting = [*self._lasting.values()]
        brief = [one for one in places if not any(one[0] in other for other in lasting)]
        for one in brief:
            self._add(one)
        try:
            yield
        finally:
            for one in brief:
                self._drop(one)

    def add(self, view: memoryview) -> None:
        """Until it is dropped."""
        place = _place(view)
        if self._add(place):
            self._lasting[place] = range(place[0], sum(place))

    def drop(self, view: memoryview) -> None:
        place = _place(view)
        if self._lasting.pop(place, None) is not None:
            self._drop(place)

    def _add(self, place: tuple[int, int]) -> bool:
        with self._lock:
            users = self._users.get(place, 0)
            is_known: bool = users > 0 or self._client.register_buffer(*place) == 0
            if is_known:
                self._users[place] = users + 1
            return is_known

    def _drop(self, place: tuple[int, int]) -> None:
        with self._lock:
            users = self._users.pop(place, 0)
            if users > 1:
                self._users[place] = users - 1
            elif users:
                self._client.unregister_buffer(place[0])


def _load(to: Connection) -> Any:
    """The library, told how to behave."""
    for name, value in (
        ("MC_LOG_LEVEL", to.log),
        ("MC_YLT_LOG_LEVEL", to.log),
        ("MC_RPC_CONNECT_TIMEOUT_MS", str(to.connect_ms)),
        ("MC_RPC_TIMEOUT_MS", str(to.rpc_ms)),
        ("MC_STORE_CLIENT_SETUP_RETRIES", "1"),
    ):
        os.putenv(name, value)
    try:
        return importlib.import_module("mooncake.store")
    except ImportError as error:
        problem = f"the library is missing or does not load ({error}): {INSTALL}"
        raise StoreRefused("stores.type", problem) from None


def _expect_life(to: Connection) -> None:
    """Raises StoreFault unless a master listens and is awake: one that is hangs up on what is no request."""
    try:
        with socket.create_connection(to.address, to.connect_ms / 1000) as line:
            line.sendall(NO_REQUEST)
            line.recv(1)
    except ConnectionResetError:
        return
    except OSError as error:
        raise StoreFault(f"mooncake_master at {to.master} cannot be reached: {error}") from None


def _settings(to: Connection) -> dict[str, str]:
    return {
        "local_hostname": to.host or _own_address(to),
        "metadata_server": to.metadata,
        "global_segment_size": str(to.segment_bytes),
        "local_buffer_size": "0",
        "protocol": to.protocol,
        "rdma_devices": to.devices,
        "master_server_addr": to.master,
        "tenant_id": to.tenant,
    }


def _own_address(to: Connection) -> str:
    """Of the interface that leads to the master. Nothing is sent."""
    try:
        family = socket.getaddrinfo(*to.address, type=socket.SOCK_DGRAM)[0][0]
        with socket.socket(family, socket.SOCK_DGRAM) as asker:
            asker.connect(to.address)
            return str(asker.getsockname()[0])
    except OSError as error:
        raise StoreFault(f"no interface leads to {to.master} ({error}); say host") from None


def _places(all_: Sequence[Parts]) -> tuple[list[list[int]], list[list[int]]]:
    places = [[_place(part) for part in parts if part.nbytes] for parts in all_]
    starts = [[start for start, _ in one] for one in places]
    return starts, [[size for _, size in one] for one in places]


def _place(view: memoryview) -> tuple[int, int]:
    """Address and size of writable memory that is not empty."""
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(view)), view.nbytes
