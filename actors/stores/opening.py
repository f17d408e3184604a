"""Which types of stores there are, and how each is opened. The only list of them."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from penstock.actors.stores.dax import open_dax_store
from penstock.actors.stores.dax_config import DaxConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.file import open_file_store
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.memory import MemoryConfig, MemoryStore
from penstock.actors.stores.mooncake import open_mooncake_store
from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.nixl import open_nixl_store
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.peer_config import PeerStoreConfig
from penstock.actors.stores.plugin import PluginConfig, open_plugin
from penstock.actors.stores.raw_block import open_raw_block_store
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.s3 import open_s3_store
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.store import Store, StoreContext, StoreRefused
from penstock.actors.stores.transform_opening import open_pipeline, transformed
from penstock.actors.stores.valkey import open_valkey_store
from penstock.actors.stores.valkey_config import ValkeyConfig

AnyStoreConfig: TypeAlias = (
    MemoryConfig
    | FileConfig
    | FsspecConfig
    | PluginConfig
    | S3Config
    | RawBlockConfig
    | ValkeyConfig
    | MooncakeConfig
    | NixlConfig
    | DaxConfig
    | PeerStoreConfig
)
"""Records of all types; told apart by their `type`. Their files import no library of a backend when loaded."""


async def open_store(config: AnyStoreConfig, context: StoreContext) -> Store:
    """The store that `config` describes, ready for its first message, with the faults it is to rehearse.

    Raises StoreRefused, StoreFault.
    """
    pipeline = open_pipeline(config, context)  # first: it may be refused
    try:
        store = await _open(config, context)
    except StoreRefused as refusal:
        raise _of_store(config.name, refusal) from None
    if config.faults is not None:
        store = FaultyStore(store, config.faults)
    return transformed(store, pipeline, config)


def _of_store(name: str, refusal: StoreRefused) -> StoreRefused:
    """With the whole path of the key: what opens a store may know it by its last part alone."""
    path = f"stores.{name}"
    if refusal.path == path or refusal.path.startswith(f"{path}."):
        return refusal
    return StoreRefused(f"{path}.{refusal.path.removeprefix('stores.')}", refusal.problem)


async def _open(config: AnyStoreConfig, context: StoreContext) -> Store:
    match config:
        case MemoryConfig():
            return MemoryStore(capacity_bytes=config.capacity)
        case FileConfig():
            return await open_file_store(config, context)
        case RawBlockConfig():
            return await open_raw_block_store(config, context)
        case FsspecConfig():
            from penstock.actors.stores.fsspec_store import open_fsspec_store

            return await open_fsspec_store(config, context)
        case PluginConfig():
            return await open_plugin(config, context)
        case S3Config():
            return await open_s3_store(config, context)
        case ValkeyConfig():
            return await open_valkey_store(config, context)
        case MooncakeConfig():
            return await open_mooncake_store(config, context)
        case NixlConfig():
            return await open_nixl_store(config, context)
        case DaxConfig():
            return await open_dax_store(config, context)
        case PeerStoreConfig():
            from penstock.actors.stores.peer import open_peer_store

            return await open_peer_store(config, context)
        case _:
            assert_never(config)
