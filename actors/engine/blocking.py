"""The client for engines that have no event loop: the same requests, answered by `concurrent.futures.Future`s.

    with BlockingClient.connect(config, spec) as client:
        with client.lookup(tokens).result() as ticket:
            loaded = client.load(ticket, [layout], [block_ids]).result()

The asynchronous client runs on a thread of its own. Every future is settled, whatever becomes of that thread: with
ClientClosed when the client is closed first, with ClientCrashed when a bug ends the thread. Cancelling a future gives
the request up, and leaks nothing.

A future's error is that of the asynchronous client's request. The call itself raises ClientClosed or ClientCrashed
when there is nobody to ask any more, ForkedClient in a forked child, and TooManyWaiting beyond `waiting_max` futures.
A callback of a future runs on the client's thread: it may ask for more there, and must not wait for it.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from penstock._native import PagedLayout
from penstock.actors.engine.accounts import ClientStatistics
from penstock.actors.engine.answers import Prefetched, Saves
from penstock.actors.engine.arguments import read_instance
from penstock.actors.engine.blocking_ticket import BlockingTicket
from penstock.actors.engine.blocking_transfer import BlockingTransfer
from penstock.actors.engine.blocking_writing import BlockingWriteLease
from penstock.actors.engine.client import Client
from penstock.actors.engine.client_thread import ClientThread
from penstock.actors.engine.config import ClientConfig
from penstock.actors.engine.copying import BlockIds
from penstock.actors.engine.counting import Loaded, Stored
from penstock.actors.engine.spec import EngineSpec
from penstock.actors.engine.ticket import TicketHandle
from penstock.actors.keys import Tokens
from penstock.protos import engine_pb2


class BlockingClient:
    """One engine process's client, for any number of threads."""

    def __init__(self, config: ClientConfig, spec: EngineSpec) -> None:
        self._client = Client.connect(config, spec)
        self._thread = ClientThread(self._client)

    @classmethod
    def connect(cls, config: ClientConfig, spec: EngineSpec) -> Self:
        """Start the thread and attach. Raises what entering `Client.connect` raises."""
        client = cls(config, spec)
        client._thread.start()
        atexit.register(client.close)
        return client

    def close(self) -> None:
        """Give up what is under way, leave the node in order, end the thread. Idempotent; from any thread.

        Waits for the end, except where a future's callback calls it: that is on the client's own thread.
        """
        atexit.unregister(self.close)
        self._thread.close()

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
    ) -> Future[BlockingTicket]:
        """`Client.lookup`."""

        async def lookup() -> BlockingTicket:
            ticket = await self._client.lookup(
                tokens,
                keys=keys,
                readers=readers,
                request_id=request_id,
                salt=salt,
                adapter=adapter,
                extras=extras,
                within=within,
            )
            return BlockingTicket(ticket, self._thread)

        return self._thread.submit(lookup)

    def join(self, handle: TicketHandle) -> Future[BlockingTicket]:
        """`Client.join`."""

        async def join() -> BlockingTicket:
            return BlockingTicket(self._client.join(handle), self._thread)

        return self._thread.submit(join)

    def load(
        self,
        ticket: BlockingTicket,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        skip_tokens: int = 0,
        rank: int = 0,
        within: float | None = None,
    ) -> Future[Loaded]:
        """`Client.load`. The blocks must stay until the future is settled, even when it is cancelled."""

        async def load() -> Loaded:
            ours = read_instance("ticket", ticket, BlockingTicket, what="a lookup's result()")
            return await self._client.load(
                ours.on(self._thread),
                layouts,
                block_ids,
                skip_tokens=skip_tokens,
                rank=rank,
                within=within,
            )

        return self._thread.submit(load)

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
        return self._thread.submit(
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
        extras: Mapping[int, bytes] | None = None,
        pin_s: float = 0.0,
        within: float | None = None,
    ) -> Future[Prefetched[BlockingTicket]]:
        """`Client.prefetch`."""

        async def prefetch() -> Prefetched[BlockingTicket]:
            found = await self._client.prefetch(
                tokens,
                keys=keys,
                salt=salt,
                adapter=adapter,
                extras=extras,
                pin_s=pin_s,
                within=within,
            )
            pin = None if found.ticket is None else BlockingTicket(found.ticket, self._thread)
            return Prefetched(found.total_chunks, found.hit_chunks, found.promised_chunks, pin)

        return self._thread.submit(prefetch)

    def pd_send(
        self,
        tokens: Tokens | None = None,
        *,
        target: str,
        request_id: str,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        priority: int = 0,
        transfer_s: float | None = None,
        within: float | None = None,
    ) -> Future[BlockingTransfer]:
        """`Client.pd_send`."""

        async def pd_send() -> BlockingTransfer:
            transfer = await self._client.pd_send(
                tokens,
                target=target,
                request_id=request_id,
                keys=keys,
                salt=salt,
                adapter=adapter,
                extras=extras,
                priority=priority,
                transfer_s=transfer_s,
                within=within,
            )
            return BlockingTransfer(transfer, self._thread)

        return self._thread.submit(pd_send)

    def reserve(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        first_chunk: int = 0,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        within: float | None = None,
    ) -> Future[BlockingWriteLease]:
        """`Client.reserve`."""

        async def reserve() -> BlockingWriteLease:
            lease = await self._client.reserve(
                tokens,
                keys=keys,
                first_chunk=first_chunk,
                salt=salt,
                adapter=adapter,
                extras=extras,
                within=within,
            )
            return BlockingWriteLease(lease, self._thread)

        return self._thread.submit(reserve)

    def pd_expect(
        self,
        tokens: Tokens | None = None,
        *,
        request_id: str,
        keys: bytes | Sequence[bytes] | None = None,
        readers: int = 1,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        transfer_s: float | None = None,
        within: float | None = None,
    ) -> Future[BlockingTicket]:
        """`Client.pd_expect`."""

        async def pd_expect() -> BlockingTicket:
            ticket = await self._client.pd_expect(
                tokens,
                request_id=request_id,
                keys=keys,
                readers=readers,
                salt=salt,
                adapter=adapter,
                extras=extras,
                transfer_s=transfer_s,
                within=within,
            )
            return BlockingTicket(ticket, self._thread)

        return self._thread.submit(pd_expect)

    def touch(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        within: float | None = None,
    ) -> Future[int]:
        """`Client.touch`."""
        return self._thread.submit(
            lambda: self._client.touch(
                tokens, keys=keys, salt=salt, adapter=adapter, extras=extras, within=within
            )
        )

    def wait_stored(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        within: float,
    ) -> Future[Saves]:
        """`Client.wait_stored`."""
        return self._thread.submit(
            lambda: self._client.wait_stored(
                tokens, keys=keys, salt=salt, adapter=adapter, extras=extras, within=within
            )
        )

    def stat(self, *, within: float | None = None) -> Future[engine_pb2.StatReply]:
        """`Client.stat`."""
        return self._thread.submit(lambda: self._client.stat(within=within))

    def health(self, *, within: float | None = None) -> Future[engine_pb2.HealthReply]:
        """`Client.health`."""
        return self._thread.submit(lambda: self._client.health(within=within))

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

        return self._thread.submit(record)

    def wait_attached(self, *, within: float) -> Future[None]:
        """`Client.wait_attached`."""
        return self._thread.submit(lambda: self._client.wait_attached(within=within))

    @property
    def is_attached(self) -> bool:
        """`Client.is_attached`."""
        return self._client.is_attached

    @property
    def chunk_tokens(self) -> int:
        """`Client.chunk_tokens`. Raises NodeAway."""
        return self._client.chunk_tokens

    def statistics(self) -> ClientStatistics:
        """`Client.statistics`."""
        return self._client.statistics()
