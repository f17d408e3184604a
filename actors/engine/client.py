"""The asynchronous client of an engine process.

    async with Client.connect(ClientConfig(address="unix:///run/penstock.sock"), spec) as client:
        async with await client.lookup(tokens, request_id="r1") as ticket:
            loaded = await client.load(ticket, [layout], [block_ids])
        ...                                     # the engine computes what is left
        await client.store(tokens, [layout], [block_ids])

A prefill worker has its prompt pushed to the node of a decode worker, which expects it there:

        transfer = await client.pd_send(tokens, target="b", request_id="r1")     # then: compute and store
        ticket = await client.pd_expect(tokens, request_id="r1")                 # at b; then: load as above

One that computes layer by layer can have each layer pushed before its chunk is whole:

        async with await client.reserve(tokens) as lease:
            await lease.copy_from([layout], [block_ids], layers=range(0, 1))
            await transfer.layers(lease, 0)
            ...
            await lease.commit()

What is not the caller's own fault is a miss and never an error (`errors.EXCUSED`): while the node is away, late or
full, `lookup` finds nothing, `load` brings 0 tokens, `store` stores nothing. The client attaches again by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock._native import PagedLayout
from penstock.actors.engine.accounts import ClientStatistics
from penstock.actors.engine.answers import Prefetched, Saves, SaveState
from penstock.actors.engine.arguments import (
    read_count,
    read_instance,
    read_pin_ms,
    read_wait,
    read_within,
)
from penstock.actors.engine.config import Backoff, ClientConfig, ClientTls, Start
from penstock.actors.engine.copying import BlockIds
from penstock.actors.engine.counting import Loaded, Stored
from penstock.actors.engine.errors import StaleEpoch, StaleGrant
from penstock.actors.engine.key_record import key_record
from penstock.actors.engine.keyspace import Prompt
from penstock.actors.engine.prompt_memory import whole
from penstock.actors.engine.pushes import PdTransfer
from penstock.actors.engine.pushing_process import PushingProcess
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
from penstock.runtime.deadline import deadline_within

__all__ = [
    "Backoff",
    "Client",
    "ClientConfig",
    "ClientStatistics",
    "ClientTls",
    "EngineSpec",
    "GroupSpec",
    "Loaded",
    "PdTransfer",
    "Place",
    "Prefetched",
    "SaveState",
    "Saves",
    "Start",
    "Stored",
    "Ticket",
    "TicketHandle",
    "new_engine_instance",
    "plain_model",
]


class Client(PushingProcess):
    """One engine process's client. Belongs to the event loop that entered it."""

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

        tokens      the prompt's token ids, one dimension; or else
        keys        32-byte chunk keys that were made earlier, packed or one by one. What makes a key is in them
                    already: `extras` are refused, `salt` and `adapter` only say whose they are
        readers     reader slots of the ticket, 1 to 128: as many ranks can load from it
        request_id  at most 256 characters. The same id with the same prompt gives the same ticket; with another prompt
                    the old ticket is closed, and a prompt that grew is sent as a delta. Empty: no name
        salt        isolates a tenant; at most 256 bytes
        adapter     the digest of the LoRA adapter's content, at most 64 bytes; empty: none
        extras      by the chunk's index in the prompt, what else enters its key (digests of images, say), at most
                    1,024 bytes each; one of a last chunk that is not whole enters none
        within      seconds to wait, then it is a miss; None: `request_within_s`

        Whole chunks only; of a prompt beyond the node's bound of chunks, the first ones (the log says so, once).

        Raises CallerError for a request that can never succeed: InvalidField and RequestRefused name the argument.
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

        It has the watermark that the handle was made with, and is final: await `ready` there before passing it on.
        A miss when the node has been restarted since, or is away. Raises InvalidField for no handle.
        """
        self._check()
        read_instance("handle", handle, TicketHandle, what="the handle of a ticket")
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

        One layout and one list of block ids for each group, in the order of the spec; the ids from the prompt's start,
        one for each block, and enough of them for `ticket.hit_tokens`. `skip_tokens`: what the engine has already, a
        multiple of every block size; those blocks are left alone. Only what `Loaded.tokens` tells may be used; it is 0
        when the node is away, the ticket is over, or the lease was lost under the copy. `within`: seconds, for the
        copies, too: it stops between two of them; None: `request_within_s` for each request to the node.

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
        `first_chunk` are left out (they were stored before, say), yet the ids begin with the prompt. A negative block
        id says that the engine has no block there: that chunk is not stored (`chunks_failed`). Too few ids for the
        prompt's whole chunks are a mistake: BadBlocks, before anything is asked for or written. Blocks must not change
        until this returns. Giving it up leaves nothing behind.

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
        extras: Mapping[int, bytes] | None = None,
        pin_s: float = 0.0,
        within: float | None = None,
    ) -> Prefetched[Ticket]:
        """Bring a prompt into the node's memory for later, from its stores if need be. Does not wait for the loads.

        Arguments as in `lookup`. `pin_s`: what is there, and what comes, is kept for so many seconds, at most the
        node's longest lease, whether or not the answer is; 0: it is evicted like anything else. While the node is
        away, late or full, all counts are 0. Raises CallerError as `lookup`.
        """
        self._check()
        within = read_within(within)
        pin_ms = read_pin_ms(pin_s)
        with self._accounts.excusing("prefetch"):
            session = self._link.current()
            prompt = self._prompts.name(
                session, tokens, keys, salt=salt, adapter=adapter, extras=extras
            )
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
        extras: Mapping[int, bytes] | None = None,
        within: float | None = None,
    ) -> int:
        """Tell that a prompt was used, so that it is kept longer. Gives the chunks that are there, from its start.

        Arguments as in `lookup`. 0 while the node is away, late or full. Raises CallerError as `lookup`.
        """
        self._check()
        with self._accounts.excusing("touch"):
            session = self._link.current()
            prompt = self._prompts.name(
                session, tokens, keys, salt=salt, adapter=adapter, extras=extras
            )
            return await session.touch(whole(prompt), within=read_within(within))
        return 0

    async def wait_stored(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        within: float,
    ) -> Saves:
        """What became of a prompt's objects at the node's stores.

        Arguments as in `lookup`. Waits at most `within` seconds, and at most about as long as the node lets any request
        take, for what is pending; 0: tells at once. While the node is away, late or full, nothing is told: no stores
        and no states. Raises CallerError as `lookup`.
        """
        self._check()
        with self._accounts.excusing("wait_stored"):
            session = self._link.current()
            prompt = self._prompts.name(
                session, tokens, keys, salt=salt, adapter=adapter, extras=extras
            )
            return Saves.of(await session.wait_stored(whole(prompt), within=read_wait(within)))
        return Saves()

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
