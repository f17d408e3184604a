"""From a node's configuration to what its store actors are made of."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from penstock.actors.api import store
from penstock.actors.config import L1Mode, NodeConfig
from penstock.actors.core.catalog import Catalog
from penstock.actors.core.watches import Watches
from penstock.actors.loads import Tier
from penstock.actors.store_parts import StoreTools
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.digests import Digester
from penstock.actors.stores.header import NO_TENANT, TENANT_BYTES
from penstock.actors.stores.opening import AnyStoreConfig, open_store
from penstock.actors.stores.store import Store, StoreContext
from penstock.actors.surroundings import FetchLimits, PrefetchLimits
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec

RESTARTS_MAX = 10  # of one store in a minute; beyond, the node stops
END_MARGIN_S = 30.0  # of a store's end beyond what it waits for by configuration; then the node stops without it
READY_MARGIN_S = 20.0  # of a store's start beyond open_within: to close the one of the life before


class StoreOpener:
    """Opens one store anew in every life of its actor; what an actor that crashed left open is closed before that."""

    def __init__(self, config: AnyStoreConfig, context: StoreContext) -> None:
        self._config = config
        self._context = context
        self._former: Store | None = None

    async def __call__(self) -> Store:
        """Raises StoreRefused, StoreFault."""
        if self._former is not None:
            await self._former.aclose()
            self._former = None
        self._former = await open_store(self._config, self._context)
        return self._former


def store_child(name: str) -> str:
    """What the actor of a store is called in health, logs and metrics."""
    return f"store[{name}]"


def store_spec(
    config: StoreConfig, ref: Ref[store.StoreActor], make: Callable[[], store.StoreActor]
) -> ChildSpec[store.StoreActor]:
    return ChildSpec(
        ref,
        make,
        restarts_max=RESTARTS_MAX,
        ready_within_s=config.open_within + READY_MARGIN_S,
        end_s=config.close_s_max + END_MARGIN_S,
    )


def store_tools(
    config: StoreConfig, make_catalog: Callable[[int], Catalog], digester: Digester
) -> StoreTools:
    return StoreTools(make_catalog, tenant_quotas(config), random.random, digester)


def tenant_quotas(config: StoreConfig) -> dict[bytes, int]:
    """Bytes by what a tenant is called in headers."""
    return {_called(one.salt): one.bytes for one in config.quotas}


def _called(salt: str) -> bytes:
    return hashlib.sha256(salt.encode()).digest()[:TENANT_BYTES] if salt else NO_TENANT


def tier(config: StoreConfig, ref: Ref[store.StoreActor], mode: L1Mode) -> Tier:
    """A store as the prefetcher sees it. In staging nothing that is loaded stays."""
    return Tier(
        config.name,
        ref,
        is_kept=config.write_back and mode is L1Mode.CACHE,
        locate_s=config.locate_within,
        load_s=config.load_within,
    )


def prefetch_limits(config: NodeConfig) -> PrefetchLimits:
    given = config.prefetch
    return PrefetchLimits(
        tickets_max=given.tickets_max,
        inflight_bytes_max=given.inflight,
        fetch=FetchLimits(
            slice_chunks=given.slice_chunks,
            batch_bytes=given.batch,
            surveys_max=given.surveys_max,
            ask_s=config.ask_within,
            room_s=given.room_within,
            probe_every_s=given.probe_every,
            head_start_s=given.head_start,
            plan_chunks_max=given.plan_chunks,
            at_hand_bytes_max=given.at_hand,
            at_hand_objects_max=given.at_hand_objects,
        ),
    )


def watches(config: NodeConfig) -> Watches:
    """Tickets that wait for writers, with stores those that wait for loads, and with peers those of pushes."""
    tickets, chunks = config.l1.watches_max, config.l1.watched_chunks_max
    if config.stores:
        tickets += config.prefetch.tickets_max
        chunks += config.prefetch.chunks_max
    if config.cluster is not None and (pd := config.cluster.pd) is not None:
        tickets += pd.sends_max + pd.requests_max
        chunks += pd.chunks_max
    return Watches(watches_max=tickets, chunks_max=chunks)
