"""A client that has its prompts pushed to another node, or takes in what is pushed: prefill and decode workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.actors.api.pd_wire import CHUNKS_MAX
from penstock.actors.engine.arguments import (
    read_count,
    read_node_id,
    read_request_id,
    read_transfer_ms,
    read_within,
)
from penstock.actors.engine.attached_process import AttachedProcess
from penstock.actors.engine.keyspace import Prompt
from penstock.actors.engine.leases import WriteLease
from penstock.actors.engine.prompt_memory import whole
from penstock.actors.engine.pushes import NOTHING, PdTransfer, ask_expect, ask_send, failed
from penstock.actors.engine.ticket import Ticket
from penstock.actors.keys import Tokens
from penstock.protos import engine_pb2


class PushingProcess(AttachedProcess):
    """What `Client` has more than one that serves prompts at its own node alone."""

    async def pd_send(
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
    ) -> PdTransfer:
        """Have a prompt pushed to another node, each chunk as soon as it is stored. Does not wait for any of it:
        call it before the prompt is computed, then `store` part by part.

        Arguments as in `lookup`. What is pushed are the objects of this process's own shard; each rank pushes its own.

        target      the node id of the receiving node, 1 to 63 characters
        request_id  what the decode engine names in its `pd_expect`, 1 to 256 characters
        priority    at the receiver, 0 to 1000: a higher one is admitted first
        transfer_s  seconds that all of it may take; None: the node's `cluster.pd.transfer`
        within      seconds to wait for the node's answer, then it has FAILED; None: `request_within_s`

        Awaiting the result gives what the push came to. While the node is away, late or full, it has FAILED at once:
        the decode engine computes the prompt itself. Raises CallerError as `lookup`; MovesNoBytes; RequestRefused also
        where the node has no `cluster.pd`.
        """
        self._check()
        body = engine_pb2.PdSend(
            request_id=read_request_id(request_id),
            target=read_node_id("target", target),
            within_ms=read_transfer_ms(transfer_s),
            priority=read_count("priority", priority),
        )
        at_most = read_within(within)
        with self._accounts.excusing("pd_send"):
            session = self._link.current()
            session.arena.require()
            prompt = self._prompts.name(
                session, tokens, keys, salt=salt, adapter=adapter, extras=extras
            ).cut(CHUNKS_MAX)
            if not prompt.chunks:
                return PdTransfer(None, b"", NOTHING)
            body.prompt.CopyFrom(whole(prompt))
            return await ask_send(session, body, within=at_most)
        return PdTransfer(None, b"", failed("the node is away, late or full: nothing is pushed"))

    async def reserve(
        self,
        tokens: Tokens | None = None,
        *,
        keys: bytes | Sequence[bytes] | None = None,
        first_chunk: int = 0,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        within: float | None = None,
    ) -> WriteLease:
        """The right to write a prompt's chunks from `first_chunk` on, for an engine that stores each layer when it is
        computed, and has it pushed (`PdTransfer.layers`); `store` does all of it at once.

            async with await client.reserve(tokens) as lease:
                for layer in range(layers):
                    ...                             # the engine computes it
                    await lease.copy_from([layout], [block_ids], layers=range(layer, layer + 1))
                    await transfer.layers(lease, layer)
                await lease.commit()

        Arguments as in `store`. What another process writes, or is there, is not granted; nothing is, when nothing is
        left: then `is_over`. Raises CallerError as `store`, and what that one excuses, too (`errors.EXCUSED`).
        """
        self._check()
        at_most = read_within(within)
        first_chunk = read_count("first_chunk", first_chunk)
        session = self._link.current()
        prompt = self._prompts.name(
            session, tokens, keys, salt=salt, adapter=adapter, extras=extras
        )
        session.arena.require()
        chunks = prompt.chunks - first_chunk
        if chunks <= 0:
            return WriteLease(session, engine_pb2.Reserved(), chunks=0)
        return await session.reserve(
            whole(prompt, first_chunk=first_chunk),
            parent=prompt.key(first_chunk - 1),
            chunks=chunks,
            within=at_most,
        )

    async def pd_expect(
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
    ) -> Ticket:
        """Expect that another node pushes a prompt here: a ticket as `lookup` gives one, whose watermark rises as it
        comes. Load from it, also while it rises; cancelling it ends the push.

        Arguments as in `lookup`, and

        request_id  what the prefill engine names in its `pd_send`, 1 to 256 characters. The same one with the same
                    prompt gives the same ticket; it is no request of `lookup`'s
        readers     1 to 128: of objects that tensor-parallel ranks share, as many as there are ranks
        transfer_s  seconds that the push may take; None: the node's `cluster.pd.transfer`

        When nothing comes in time, or not all of it, the watermark is final below the prompt's end, and `shortfall`
        says why: the engine computes the rest. What was pushed is gone with the ticket and its leases. A miss while the
        node is away, late or full. Raises CallerError as `lookup`; RequestRefused also where the node has no
        `cluster.pd`, or no room in it for prompts of the length that it was told to expect.
        """
        self._check()
        body = engine_pb2.PdExpect(
            request_id=read_request_id(request_id),
            readers=read_count("readers", readers),
            ticket_ms=self.config.ticket_ms,
            within_ms=read_transfer_ms(transfer_s),
        )
        at_most = read_within(within)
        prompt: Prompt | None = None
        with self._accounts.excusing("pd_expect"):
            session = self._link.current()
            prompt = self._prompts.name(
                session, tokens, keys, salt=salt, adapter=adapter, extras=extras
            ).cut(CHUNKS_MAX)
            body.prompt.CopyFrom(whole(prompt))
            found = await ask_expect(session, body, total_chunks=prompt.chunks, within=at_most)
            return self._accounts.looked_up(found.ticket)
        chunks = 0 if prompt is None else prompt.chunks
        return self._accounts.looked_up(Ticket(None, b"", chunk_tokens=0, total_chunks=chunks))
