"""What L1 tells whoever brings objects for a ticket: the prefetcher, from the tiers below, or the receiver of another
node's pushes. `l1.Lookup` names the loader, and L1 promises in its name until it says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.actors.api.types import TicketId
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg


class Loader(Actor["LoaderNews"]):
    """Address of a loader. Each kind has an address of its own, derived from this one."""


@dataclass(frozen=True, slots=True)
class Leave(Msg["Loader", None]):
    """This ticket is over: nothing is loaded for it any more, and what was loaded only for it goes."""

    ticket: TicketId
    hit_chunks: int  # where its watermark was: what lies below is kept


@dataclass(frozen=True, slots=True)
class Stirred(Msg["Loader", None]):
    """What this ticket waited for by `l1_loading.Await` is there, or given up."""

    ticket: TicketId


LoaderNews = Leave | Stirred
