"""From a node's configuration to the table of its L1, and what bounds it."""

from __future__ import annotations

import os

from penstock import _native
from penstock.actors.config import L1Mode, NodeConfig
from penstock.actors.config_words import PolicyName
from penstock.actors.l1_staging import UNBOUNDED, StagedTable, StagingBound, WriteBound

POLICIES = {name: _native.Policy[name.name] for name in PolicyName}


def l1_table(config: NodeConfig) -> _native.Table:
    """Empty, of a node that begins."""
    given = config.l1
    kind = StagedTable if given.mode is L1Mode.STAGING else _native.Table
    return kind(
        arena_bytes=given.bytes,
        pd_bytes=pd_bytes(config),
        objects_max=given.objects_bound(),
        pd_objects_max=pd_objects_bound(config),
        policy=POLICIES[given.policy],
        quarantine_bytes_max=int(given.bytes * given.quarantine_max),
        leases_max=given.leases_max,
        tickets_max=given.tickets_max,
        news_max=given.news_max if config.stores else 0,
        changes_max=changes_max(config),
        fair_share=given.fair_share,
        hash_seed=int.from_bytes(os.urandom(8), "little"),
    )


def changes_max(config: NodeConfig) -> int:
    """Chunks whose coming and going is kept for the directory: none in a node that stands alone, or whose lookups never
    hit L1."""
    if config.cluster is None or config.l1.mode is L1Mode.STAGING:
        return 0
    return config.cluster.directory.changes_max


def pd_bytes(config: NodeConfig) -> int:
    """How much of the arena, behind `l1.bytes`, is for what other nodes push."""
    pd = None if config.cluster is None else config.cluster.pd
    return 0 if pd is None else pd.receive


def pd_objects_bound(config: NodeConfig) -> int:
    """How many objects there is room for in that part."""
    given = pd_bytes(config)
    return max(64, given // config.l1.object_bytes_min) if given else 0


def arena_bytes(config: NodeConfig) -> int:
    """All of the arena."""
    return config.l1.bytes + pd_bytes(config)


def write_bound(config: NodeConfig, table: _native.Table) -> WriteBound:
    """Of what engines write into it."""
    if config.l1.mode is not L1Mode.STAGING:
        return UNBOUNDED
    return StagingBound(table, bytes_max=int(config.l1.bytes * config.l1.staging_max))
