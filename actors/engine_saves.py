"""What a session asks of the saves below L1."""

from __future__ import annotations

from penstock.actors.api import writer
from penstock.actors.api.types import KEY_BYTES
from penstock.protos import engine_pb2
from penstock.runtime.ref import Ref


async def say_stored(
    store_writer: Ref[writer.StoreWriter], ask: writer.WaitStored, reply: engine_pb2.Stored
) -> None:
    """Wait for what is pending, and fill in what became of it all."""
    if not ask.keys:
        return
    stored = await store_writer.ask(ask)
    reply.stores.extend(stored.stores)
    per_chunk = len(ask.keys) // KEY_BYTES * max(1, len(stored.stores))
    reply.slots = len(stored.states) // per_chunk
    reply.states = stored.states
