"""One whole load and one whole store: lease, copy, and the node's word that it counts."""

from __future__ import annotations

from collections.abc import Sequence

from penstock._native import PagedLayout
from penstock.actors.engine.arguments import read_count, read_instance
from penstock.actors.engine.copying import BlockIds, named_blocks
from penstock.actors.engine.counting import Loaded, Stored
from penstock.actors.engine.errors import StaleEpoch
from penstock.actors.engine.keyspace import Prompt
from penstock.actors.engine.prompt_memory import whole
from penstock.actors.engine.session import Session
from penstock.actors.engine.ticket import Ticket


async def load_hit(
    ticket: Ticket,
    layouts: Sequence[PagedLayout],
    block_ids: Sequence[BlockIds],
    *,
    skip_tokens: int,
    rank: int,
) -> Loaded:
    """What `ticket` has hit beyond `skip_tokens`, into the engine's blocks. Given up at any line, it leaks nothing.

    Raises as `Ticket.acquire_alone`, `ReadLease.copy_to` and `ReadLease.release`; InvalidField for what is no
    ticket, or a bad `skip_tokens`.
    """
    read_instance("ticket", ticket, Ticket, what="what a lookup brought")
    skip_tokens = read_count("skip_tokens", skip_tokens)
    if ticket.is_lost:
        raise StaleEpoch("the session of this ticket has ended: look the prompt up again")
    if ticket.hit_tokens <= skip_tokens:
        return Loaded()
    lease = await ticket.acquire_alone(rank, skip_tokens // ticket.chunk_tokens)
    async with lease:
        await lease.copy_to(layouts, block_ids, skip_tokens=skip_tokens)
        return await lease.release(skip_tokens=skip_tokens)


async def store_prompt(
    session: Session,
    prompt: Prompt,
    layouts: Sequence[PagedLayout],
    block_ids: Sequence[BlockIds],
    *,
    first_chunk: int,
) -> Stored:
    """The chunks of `prompt` from `first_chunk` on, out of the engine's blocks. Given up at any line, it leaks nothing.

    Blocks that do not reach over the prompt's whole chunks are refused before anything is reserved.

    Raises as `Session.reserve`, `WriteLease.copy_from` and `WriteLease.commit`; InvalidField for a bad
    `first_chunk`.
    """
    first_chunk = read_count("first_chunk", first_chunk)
    chunks = prompt.chunks - first_chunk
    session.arena.require()
    ids = named_blocks(session.groups, layouts, block_ids, chunks=prompt.chunks)
    if chunks <= 0:
        return Stored()
    lease = await session.reserve(
        whole(prompt, first_chunk=first_chunk),
        parent=prompt.key(first_chunk - 1),
        chunks=chunks,
        within=None,
    )
    async with lease:
        if not lease.is_over:
            await lease.copy_from(layouts, ids, first_chunk=first_chunk)
            await lease.commit()
        return lease.outcome()
