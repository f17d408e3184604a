"""The asynchronous client of an engine process.

    async with Client.connect(ClientConfig(address="unix:///run/penstock.sock"), spec) as client:
        async with await client.lookup(tokens, request_id="r1") as ticket:
            loaded = await client.load(ticket, [layout], [block_ids])
        ...                                     # the engine computes what is left
        await client.store(tokens, [layout], [block_ids])

What is not the caller's own fault is a miss and never an error (`errors.EXCUSED`): while the node is away, late or
full, `lookup` finds nothing, `load` brings 0 tokens, `store` stores nothing. The client attaches again by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from anyio import CancelScope, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup

from penstock._native import PagedLayout
from penstock.actors.engine.accounts import Accounts, ClientStatistics
from penstock.actors.engine.answers import Prefetched, Saves
from penstock.actors.engine.arguments import read_count, read_pin_ms, read_wait, read_within
from penstock.actors.engine.config import Backoff, ClientConfig, ClientTls, Start
from penstock.actors.engine.copying import BlockIds
from penstock.actors.engine.counting import Loaded, Stored
from penstock.actors.engine.errors import ClientClosed, StaleEpoch, StaleGrant
from penstock.actors.engine.forks import HomeProcess, tell_if_forks_crash
from penstock.actors.engine.key_record import key_record
from penstock.actors.engine.keyspace import Prompt
from penstock.actors.engine.link import Link
from penstock.actors.engine.mover import Mover
from penstock.actors.engine.prompt_memory import whole
from penstock.actors.engine.prompt_naming import PromptNames
from penstock.actors.engine.session import Found, Session
from penstock.actors.engine.spec import (
    EngineSpec,
    GroupSpec,
    Place,
    new_engine_instance,
    plain_model,
)
from penstock.actors.engine.ticket import Ticket, TicketHandle
from penstock.actors.engine.transfers import load_hit, store_prompt
from penstock.actors.keys import Tokens
from penstock.protos import engine_pb2
from penstock.runtime.deadline import deadline_within, time_left
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log

__all__ = [
    "Backoff",
    "Client",
    "ClientConfig",
    "ClientStatistics",
    "ClientTls",
    "EngineSpec",
    "GroupSpec",
    "Loaded",
    "Place",
    "Prefetched",
    "Saves",
    "Start",
    "Stored",
    "Ticket",
    "TicketHandle",
    "new_engine_instance",
    "plain_model",
]


class Client:
    """One engine process's client. Belongs to the event loop that entered it."""

    def __init__(self, config: ClientConfig, spec: EngineSpec) -> None:
        self.config = config
        self.spec = spec
        self._home = HomeProcess()
        self._log = Log("engine")
        self._mover = Mover(copies_max=config.copies_max, copy_threads=config.copy_threads)
        self._link = Link(config, spec, self._mover, self._log)
        self._prompts = PromptNames(memory_bytes_max=config.prompt_memory_bytes_max, log=self._log)
        self._tasks: TaskGroup | None = None  # while entered
        self._accounts = Accounts(self._log)

    @classmethod
    def connect(cls, config: ClientConfig, spec: EngineSpec) -> Self:
        """A client, to be entered with `async with`.

        Entering raises NodeAway when no node answered within attach_within_s (unless Start.DETACHED), and what no
        retry can cure at once: AccessDenied, VersionMismatch, DeclarationMismatch, NamespaceMismatch, RequestRefused.
        """
        return cls(config, spec)

    async def __aenter__(self) -> Self:
        assert self._tasks is None, "a client is entered once"
        tell_if_forks_crash(self._log)
        self._tasks = create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._link.run, name="penstock link")
        if self.config.start is Start.ATTACHED:
            try:
                await self._link.wait_attached(within=self.config.attach_within_s)
            except (PenstockError, get_cancelled_exc_class()):
                await self._leave(None)
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Only a cancellation is the task group's business: the caller's own errors pass as they are.
        await self._leave(error if isinstance(error, get_cancelled_exc_class()) else None)

    async def _leave(self, error: BaseException | None) -> None:
        tasks, self._tasks = self._tasks, None
        assert tasks is not None
        with CancelScope(shield=True):
            await self._link.close()
        self._mover.close()
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(type(error) if error is not None else None, error, None)

    # Reading.

    async def lookup(
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
    ) -> Ticket:
        """How much of a prompt can be had, and the right to read it.

        The prompt is named by `tokens`, or by chunk `keys` made earlier. `readers` is the number of reader slots, 1
        to 128. The same `request_id` with the same prompt gives the same ticket; with another prompt the old ticket
        is closed, and a prompt that grew is sent as a delta. `salt` isolates a tenant, `adapter` is the digest of the
        LoRA adapter, `extras` what else enters a chunk's key. `within`: seconds to wait; then it is a miss.

        Raises CallerError for a request that can never succeed.
        """
        self._check()
        within = read_within(within)
        prompt: Prompt | None = None
        with self._accounts.excusing("lookup"):
            session = self._link.current()
            prompt = self._prompts.name(
                session,
                tokens,
                keys,
                salt=salt,
                adapter=adapter,
                extras=extras,
                request_id=request_id,
            )
            found = await self._find(
                session, prompt, request_id, read_count("readers", readers), within
            )
            self._prompts.remember(request_id, prompt, session, found.prompt_id)
            return self._accounts.looked_up(found.ticket)
        missed = Ticket(
            None, b"", chunk_tokens=0, total_chunks=0 if prompt is None else prompt.chunks
        )
        return self._accounts.looked_up(missed)

    async def _find(
        self, session: Session, prompt: Prompt, request_id: str, readers: int, within: float | None
    ) -> Found:
        message = self._prompts.message(request_id, prompt, session)
        is_delta = message.HasField("delta")
        try:
            return await session.lookup(
                message,
                total_chunks=prompt.chunks,
                request_id=request_id,
                readers=readers,
                within=within,
            )
        except StaleGrant:
            if not is_delta:
                raise
        # The node does not remember the prompt the delta builds on.
        self._prompts.forget(request_id)
        return await session.lookup(
            whole(prompt),
            total_chunks=prompt.chunks,
            request_id=request_id,
            readers=readers,
            within=within,
        )

    def join(self, handle: TicketHandle) -> Ticket:
        """The ticket that another process of this engine instance looked up; that process cancels it.

        A miss when the node has been restarted since, or is away.
        """
        self._check()
        with self._accounts.excusing("join"):
            session = self._link.current()
            if handle.epoch != session.epoch:
                raise StaleEpoch("the ticket is of another epoch: the node has been restarted")
            return session.join(
                handle.ticket, total_chunks=handle.total_chunks, hit_chunks=handle.hit_chunks
            )
        return Ticket(None, b"", chunk_tokens=0, total_chunks=handle.total_chunks)

    async def load(
        self,
        ticket: Ticket,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        skip_tokens: int = 0,
        rank: int = 0,
        within: float | None = None,
    ) -> Loaded:
        """Copy what the ticket has hit into the engine's blocks, and verify it.

        One layout and one list of block ids for each group; the ids from the prompt's start. `skip_tokens`: what the
        engine has already, a multiple of every block size. Only what `Loaded.tokens` tells may be used; it is 0 when
        the node is away, the ticket is over, or the lease was lost under the copy.

        Loads of one ticket at once need a rank each, and so as many `readers` in the lookup.

        Raises BadBlocks, RankBusy, RankTaken, MovesNoBytes, and CallerError for whatever else can never succeed.
        """
        self._check()
        within = read_within(within)
        with self._accounts.excusing("load"), deadline_within(within):
            return self._accounts.loaded(
                await load_hit(ticket, layouts, block_ids, skip_tokens=skip_tokens, rank=rank)
            )
        return Loaded()

    # Writing.

    async def store(
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
    ) -> Stored:
        """Copy a prompt's KV out of the engine's blocks into the node's memory.

        Arguments as in `lookup` and `load`; name the prompt by `tokens`, or by `keys` with tokens None. Chunks before
        `first_chunk` are left out (they were stored before, say). A negative block id says that the engine has no
        block there. Blocks must not change until this returns. Giving it up leaves nothing behind.

        Raises BadBlocks, MovesNoBytes, and CallerError for whatever else can never succeed.
        """
        self._check()
        within = read_within(within)
        with self._accounts.excusing("store"), deadline_within(within):
            session = self._link.current()
            prompt = self._prompts.name(
                session,
                tokens,
                keys,
                salt=salt,
                adapter=adapter,
                extras=extras,
                request_id=request_id,
            )
            return self._accounts.stored(
                await store_prompt(session, prompt, layouts, block_ids, first_chunk=first_chunk)
            )
        return Stored()

    # Hints and tools.

    async def prefetch(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        pin_s: float = 0.0,
        within: float | None = None,
    ) -> Prefetched:
        """Bring a prompt into the node's memory for later, from its stores if need be. Does not wait for the loads.

        `pin_s`: what is there, and what comes, is kept for so long, whether or not the answer is; 0: it is evicted
        like anything else.
        """
        self._check()
        within = read_within(within)
        pin_ms = read_pin_ms(pin_s)
        with self._accounts.excusing("prefetch"):
            session = self._link.current()
            prompt = self._prompts.name(session, tokens, keys, salt=salt, adapter=adapter)
            reply, ticket = await session.prefetch(whole(prompt), pin_ms=pin_ms, within=within)
            return Prefetched(reply.total_chunks, reply.hit_chunks, reply.promised_chunks, ticket)
        return Prefetched()

    async def touch(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        within: float | None = None,
    ) -> int:
        """Tell that a prompt was used, so that it is kept longer. Gives the chunks that are there."""
        self._check()
        with self._accounts.excusing("touch"):
            session = self._link.current()
            prompt = self._prompts.name(session, tokens, keys, salt=salt, adapter=adapter)
            return await session.touch(whole(prompt), within=read_within(within))
        return 0

    async def wait_stored(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        within: float,
    ) -> Saves:
        """What became of a prompt's objects at the node's stores; waits at most so long for what is pending."""
        self._check()
        with self._accounts.excusing("wait_stored"):
            session = self._link.current()
            prompt = self._prompts.name(session, tokens, keys, salt=salt, adapter=adapter)
            return Saves.of(await session.wait_stored(whole(prompt), within=read_wait(within)))
        return Saves()

    async def stat(self, *, within: float | None = None) -> engine_pb2.StatReply:
        """The node's gauges. Raises NodeAway and the like: it is not excused."""
        self._check()
        return await self._link.current().stat(within=read_within(within))

    async def health(self, *, within: float | None = None) -> engine_pb2.HealthReply:
        """Whether each part of the node does its work. Raises NodeAway and the like."""
        self._check()
        given = read_within(within)
        at_most = self.config.request_within_s if given is None else given
        return await self._link.health(within=time_left(at_most=at_most))

    def record(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
    ) -> dict[str, object]:
        """How this client names a prompt: as JSON, what `penstock doctor keys` compares with another session's.

        Arguments as in `lookup`. Asks the node nothing. Holds tokens and salt in clear. Raises NodeAway, CallerError.
        """
        self._check()
        session = self._link.current()
        prompt = self._prompts.name(
            session, tokens, keys, salt=salt, adapter=adapter, extras=extras
        )
        return key_record(session.keyspace.namespace(prompt.adapter, prompt.salt), prompt)

    async def wait_attached(self, *, within: float) -> None:
        """Wait until a node is attached. Raises NodeAway after `within` seconds, or at once what no retry can cure."""
        self._check()
        await self._link.wait_attached(within=within)

    @property
    def is_attached(self) -> bool:
        return self._link.is_attached

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk at the attached node. Raises NodeAway."""
        return self._link.current().chunk_tokens

    def statistics(self) -> ClientStatistics:
        return self._accounts.statistics(attachments=self._link.attachments)

    def _check(self) -> None:
        self._home.check()
        if self._tasks is None:
            raise ClientClosed("the client is used outside its `async with`")
