"""A long Commit of an engine, taken to L1 part by part: no step of the loop is as long as a message may be."""

from __future__ import annotations

from dataclasses import replace

from anyio.lowlevel import checkpoint

from penstock.actors.api import l1
from penstock.actors.api.l1_saving import Committed
from penstock.runtime.ref import Ref

DIGEST_BYTES = 8
OBJECTS_MAX = 2048  # committed in one step of the loop


async def commit_in_parts(manager: Ref[l1.L1Manager], whole: l1.Commit) -> Committed:
    """The outcomes of all its objects. Should one part be refused, what was committed before stays so.

    Raises what L1 refuses the first or a later part with."""
    part = await manager.ask(replace(whole, objects_max=OBJECTS_MAX))
    outcomes = part.outcomes
    while part.outcomes and len(outcomes) * DIGEST_BYTES < len(whole.digests):
        await checkpoint()
        done = len(outcomes)
        part = await manager.ask(
            replace(whole, objects_max=OBJECTS_MAX, done=done, runs_done=part.runs_done)
        )
        outcomes += part.outcomes
    return Committed(outcomes, part.backlog_bytes)
