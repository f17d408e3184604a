"""What one may ask of the prefetcher, which brings prompts from the tiers below L1."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.actors.api import l1_loading
from penstock.actors.api.loader import Leave, Loader, Stirred
from penstock.actors.api.types import Afterwards, InstanceId, SessionId, Shape, TicketId
from penstock.runtime.message import Msg

__all__ = ["Fetch", "FetchNow", "Leave", "Message", "Prefetcher", "Stirred"]


class Prefetcher(Loader):
    """Address of the prefetcher."""


@dataclass(frozen=True, slots=True)
class Fetch(Msg["Prefetcher", None]):
    """Bring what this ticket misses. L1 has promised all of its prompt, and is told what comes of that."""

    ticket: TicketId
    session: SessionId
    instance: InstanceId
    shape: Shape
    keys: bytes  # of the whole prompt
    salt: bytes = field(repr=False)  # the tenant charged
    hit_chunks: int  # readable already
    load_s: float  # how long the loads may take
    ticket_s: float  # how long the ticket lives
    chunk_tokens: int
    prefill_tokens_per_s: (
        int  # how fast the engine computes them instead; 0: unknown, so always load
    )
    afterwards: Afterwards  # as in its lookup


@dataclass(frozen=True, slots=True)
class FetchNow(Msg["Prefetcher", l1_loading.Finished | None]):
    """As Fetch. What is at hand is brought in this step, and the answer tells what the ticket has come to: nobody else
    is told. None: it goes its way."""

    fetch: Fetch


Message = Fetch | FetchNow | Leave | Stirred
