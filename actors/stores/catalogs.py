"""Catalogs of exclusive stores: what each holds, and what it gives up first."""

from __future__ import annotations

import os

from penstock import _native
from penstock.actors.core.store_ledger import PUT_MAX
from penstock.actors.l1_making import POLICIES
from penstock.actors.stores.config import StoreConfig


def make_catalog(config: StoreConfig, capacity_bytes: int) -> _native.Catalog:
    """Of one place of its medium."""
    return _native.Catalog(
        objects_max=config.objects_max + PUT_MAX,
        capacity_bytes=capacity_bytes,
        policy=POLICIES[config.policy],
        hash_seed=int.from_bytes(os.urandom(8), "little"),
    )
