"""What eviction would take next, held: so that it can be saved, or dropped, before it goes."""

from __future__ import annotations

from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_saving
from penstock.runtime.ref import Ref


async def next_victims(
    manager: Ref[l1.L1Manager],
    bytes_wanted: int,
    chunks_max: int,
    *,
    own: bytes | None = None,
    ask_s: float,
) -> l1_saving.Borrowed | None:
    """At most so many, with `own` of that tenant; None: nothing is left that may go. Raises PenstockError.

    L1 looks at `chunks_max` chunks a step. It may spare all of them, where tenants share it fairly, and offers others
    in the next: there are as many such steps as there are chunks to be spared, and no more.
    """
    ask = l1_saving.Victims(bytes_wanted, chunks_max, own)
    while True:
        offered = await manager.ask(ask, within=ask_s)
        if offered.borrowed is not None or offered.is_over:
            return offered.borrowed
        await checkpoint()
