"""Parts of a store's medium that come and go while it works, and the books that follow them."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from penstock.actors.api import store as api
from penstock.actors.api.errors import NoArenas
from penstock.actors.api.store import ArenaUsage
from penstock.actors.store_parts import Parts, capacity_of
from penstock.actors.store_recovery import count, shrink
from penstock.actors.stores.store import Arenas, arenas_of


async def change_arenas(parts: Parts, msg: api.ArenaMessage) -> tuple[ArenaUsage, ...]:
    """Do what `msg` says; all arenas there are then. Raises NoArenas, StoreRefused, StoreFault."""
    arenas = arenas_of(parts.store)
    if arenas is None:
        raise NoArenas(
            f"store {parts.config.name} has no arenas: they are what dax stores consist of"
        )
    match msg:
        case api.ListArenas():
            pass
        case api.AddArena():
            await parts.recovered.wait()
            await arenas.add_arena(Path(msg.path), msg.size_bytes)
            await _recount(parts)
            parts.log.info("arena_added", path=msg.path)
        case api.DrainArena():
            await parts.recovered.wait()
            await _drain(parts, arenas, Path(msg.path))
            parts.log.info("arena_drained", path=msg.path)
        case api.RemoveArena():
            await arenas.remove_arena(Path(msg.path))
            parts.log.info("arena_removed", path=msg.path)
        case _:
            assert_never(msg)
    return arenas.arenas()


async def _recount(parts: Parts) -> None:
    """What an arena brought with it is in the books from now on."""
    if parts.ledger is not None:
        parts.ledger.resize(capacity_of(parts.store, parts.config))
        await count(parts, parts.ledger)
        await shrink(parts)


async def _drain(parts: Parts, arenas: Arenas, path: Path) -> None:
    """First what there will be no room for is evicted, by policy, wherever it lies: so that the rest can be moved."""
    arenas.close_arena(path)
    ledger = parts.ledger
    if ledger is not None:
        ledger.resize(capacity_of(parts.store, parts.config))
        await shrink(parts)
    dropped = await arenas.drain_arena(path)
    if ledger is not None:
        ledger.removed(dropped - parts.turns.taken)
