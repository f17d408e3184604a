"""A10: what would have no effect is refused and not silently ignored: of an owner, where others write, too, or of
transforms where there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.actors.config_words import PolicyName, TenantQuota
from penstock.actors.stores.config import OF_OWNERS, BreakerConfig, OwnershipName, StoreConfig
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.memory import MemoryConfig
from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.transform_config import ZstdConfig
from penstock.actors.stores.valkey_config import ValkeyConfig
from penstock.runtime.units import MIB, ByteSize, Seconds

Make = Callable[..., StoreConfig]
SHARED: dict[str, tuple[Make, dict[str, Any]]] = {
    "file": (FileConfig, {"paths": "/kv", "ownership": OwnershipName.SHARED}),
    "nixl": (NixlConfig, {"path": "/kv", "ownership": OwnershipName.SHARED}),
    "fsspec": (FsspecConfig, {"url": "memory://kv"}),
    "mooncake": (MooncakeConfig, {"master": "127.0.0.1:50051"}),
    "s3": (S3Config, {"url": "s3://kv"}),
    "valkey": (ValkeyConfig, {"addresses": ("127.0.0.1:6379",)}),
}
OWNED: dict[str, Any] = {
    "capacity": ByteSize(MIB),
    "policy": PolicyName.SIEVE,
    "objects_max": 7,
    "tenant_bytes_max": ByteSize(4096),
    "tenants_max": 7,
    "quotas": (TenantQuota(salt="a", bytes=ByteSize(4096)),),
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("key", OF_OWNERS)
def test_what_only_an_owner_keeps_to_is_refused(kind: str, key: str) -> None:
    make, given = SHARED[kind]
    make(name="ours", **given)
    with pytest.raises(ValueError, match=f"{key}: others write there too"):
        make(name="ours", **given, **{key: OWNED[key]})


@pytest.mark.parametrize("given", [{"bounce_bytes_max": ByteSize(MIB)}, {"transform_threads": 9}])
def test_what_only_transforms_need_is_refused_without_them(given: dict[str, Any]) -> None:
    (name,) = given
    MemoryConfig(name="mine", capacity=ByteSize(MIB), transforms=(ZstdConfig(),), **given)
    with pytest.raises(ValueError, match=f"{name}: there are no transforms; leave it out"):
        MemoryConfig(name="mine", capacity=ByteSize(MIB), **given)
    with pytest.raises(ValueError, match="bounce_bytes_max must not be 0"):
        MemoryConfig(
            name="mine",
            capacity=ByteSize(MIB),
            transforms=(ZstdConfig(),),
            bounce_bytes_max=ByteSize(0),
        )


def test_a_first_pause_above_the_longest_is_refused() -> None:
    """Seen to fail: the longest was raised without a word."""
    BreakerConfig(open_for=Seconds(60), open_for_max=Seconds(60))
    with pytest.raises(ValueError, match=r"open_for is 60 s, above open_for_max, 30 s: raise"):
        BreakerConfig(open_for=Seconds(60))
