"""What an operator reads of a store that cannot be as it is configured: the key, and what to do."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.config_words import TenantQuota
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.memory import MemoryConfig
from penstock.actors.stores.opening import AnyStoreConfig, open_store
from penstock.actors.stores.plugin import PluginConfig
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.store import StoreContext, StoreRefused
from penstock.runtime.units import MIB, ByteSize


def refusal(config: AnyStoreConfig) -> StoreRefused:
    async def run() -> StoreRefused:
        with pytest.raises(StoreRefused) as told:
            await open_store(config, StoreContext(config.name, Epoch(bytes(16))))
        return told.value

    return anyio.run(run)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (FileConfig(name="a", paths="/dev/null", capacity=ByteSize(MIB)), "stores.a.paths"),
        (RawBlockConfig(name="b", paths="/no/such/folder/raw"), "stores.b.paths"),
        (PluginConfig(name="c", plugin="json:Nothing"), "stores.c.plugin"),
        (PluginConfig(name="d", plugin="no_such_module:Store"), "stores.d.plugin"),
    ],
    ids=["file", "raw_block", "no class", "no module"],
)
def test_a_refusal_names_the_whole_key(config: AnyStoreConfig, path: str) -> None:
    """E4. Seen to fail: of two file stores nobody could tell whose `paths` it was."""
    told = refusal(config)
    assert told.path == path
    assert str(told).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tenant_bytes_max": ByteSize(2 * MIB)}, "tenant_bytes_max is 2097152, above capacity"),
        (
            {"quotas": (TenantQuota(salt="secret", bytes=ByteSize(2 * MIB)),)},
            "quotas.0.bytes is 2097152, above capacity, 1048576, .*: give it less, or 0",
        ),
    ],
)
def test_a_quota_above_the_store_is_refused(given: dict[str, object], words: str) -> None:
    """E4. Seen to fail: the node started, and the quota bounded nobody."""
    with pytest.raises(ValueError, match=words) as told:
        MemoryConfig(name="a", capacity=ByteSize(MIB), **given)  # type: ignore[arg-type]
    assert "secret" not in str(told.value)


def test_a_quota_of_all_there_is_is_none_too_large(tmp_path: Path) -> None:
    quotas = (TenantQuota(salt="a", bytes=ByteSize(MIB)), TenantQuota(salt="b", bytes=ByteSize(0)))
    made = FileConfig(name="a", paths=str(tmp_path), capacity=ByteSize(MIB), quotas=quotas)
    assert made.quotas == quotas
