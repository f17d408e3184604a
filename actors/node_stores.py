"""From a node's configuration to what its store actors are made of."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from penstock.actors.core.catalog import Catalog
from penstock.actors.store_parts import StoreTools
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.digests import Digester
from penstock.actors.stores.header import TENANT_BYTES
from penstock.actors.stores.opening import AnyStoreConfig, open_store
from penstock.actors.stores.store import Store, StoreContext

RESTARTS_MAX = 10  # of one store in a minute; beyond, the node stops
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


def store_tools(
    config: StoreConfig, make_catalog: Callable[[int], Catalog], digester: Digester
) -> StoreTools:
    return StoreTools(make_catalog, tenant_quotas(config), random.random, digester)


def tenant_quotas(config: StoreConfig) -> dict[bytes, int]:
    """Bytes by what a tenant is called in headers."""
    return {
        hashlib.sha256(one.salt.encode()).digest()[:TENANT_BYTES]: one.bytes
        for one in config.quotas
    }
