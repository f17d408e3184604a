"""Quotas of stores, as a node's configuration has them."""

from __future__ import annotations

import hashlib

from penstock.actors.config_words import TenantQuota
from penstock.actors.node_stores import tenant_quotas
from penstock.actors.stores.header import NO_TENANT
from penstock.actors.stores.memory import MemoryConfig
from penstock.runtime.units import MIB, ByteSize


def test_the_empty_salt_is_the_tenant_without_one() -> None:
    """D6: it is called zeros in headers, and not by the digest of nothing. Seen to fail so: a quota without effect."""
    quotas = (TenantQuota(salt="", bytes=ByteSize(1)), TenantQuota(salt="a", bytes=ByteSize(2)))
    told = tenant_quotas(MemoryConfig(name="m", capacity=ByteSize(MIB), quotas=quotas))
    assert told == {NO_TENANT: 1, hashlib.sha256(b"a").digest()[:16]: 2}
