"""An arena's memory at the start of a node: waiting for it, and telling how far it is backed."""

from __future__ import annotations

import os
from typing import Protocol

import anyio

from penstock.actors.config import NodeConfig
from penstock.actors.l1_making import arena_bytes
from penstock.actors.memory import available_memory, free_huge_page_bytes
from penstock.runtime.errors import ConfigError, StartFailed
from penstock.runtime.log import Log

MEMORY_LOOK_S = 0.25  # between two looks at a machine that lacks memory


class Backed(Protocol):
    """What of an arena tells how far it is backed with memory."""

    @property
    def bytes(self) -> int: ...
    @property
    def prefaulted_bytes(self) -> int: ...
    @property
    def prefault_error(self) -> str: ...


async def wait_for_memory(config: NodeConfig) -> None:
    """A node that was killed may still be mapped by its engines: wait until they have let go.

    Raises StartFailed when the memory does not come in time; nothing was taken by then.
    """
    arena = arena_bytes(config)
    needed = arena + config.l1.memory_reserve
    what = "l1.bytes" if arena == config.l1.bytes else "l1.bytes and cluster.pd.receive"
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > machine:
        most = machine - (needed - int(config.l1.bytes))
        advice = f"lower l1.bytes to at most {most}" if most > 0 else "lower l1.memory_reserve"
        problem = f"{arena} bytes ({what}) and l1.memory_reserve need {needed}"
        raise ConfigError("l1.bytes", f"{problem}, the machine has {machine}: {advice}")
    if free_huge_page_bytes() >= arena:
        return
    log = Log("node")
    with anyio.move_on_after(config.l1.memory_within):
        while (available := available_memory()).bytes < needed:
            log.warning_once(
                "waiting_for_memory",
                needed_bytes=needed,
                available_bytes=available.bytes,
                source=available.source,
                within_s=float(config.l1.memory_within),
            )
            await anyio.sleep(MEMORY_LOOK_S)
        return
    raise StartFailed(
        f"{what} = {arena} and l1.memory_reserve need {needed} bytes, but"
        f" {available.source} leaves {available.bytes}: lower {what}, or end what holds the memory"
    )


async def tell_prefault(arena: Backed) -> None:
    """Log how far the arena has been backed, whenever another quarter is, until all of it is."""
    log = Log("node")
    quarters = 0
    while quarters < 4:
        await anyio.sleep(MEMORY_LOOK_S)  # the native threads tell by a number, not by an event
        if arena.prefault_error:
            log.warning("prefault_ended", bytes=arena.prefaulted_bytes, reason=arena.prefault_error)
            return
        reached = arena.prefaulted_bytes * 4 // arena.bytes
        if reached > quarters:
            quarters = reached
            log.info("prefaulted", bytes=arena.prefaulted_bytes, of_bytes=arena.bytes)
