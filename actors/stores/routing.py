"""The places of a store, each of which may hang by itself, as its configuration says."""

from __future__ import annotations

from penstock.actors.core.routing import ONE_PLACE, Routing
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.file_config import FileConfig, Placement
from penstock.actors.stores.raw_config import RawBlockConfig


def routing_of(config: StoreConfig) -> Routing:
    match config:
        case FileConfig():
            folders = len(config.folders())
            if config.placement is Placement.BY_DEVICE:
                return Routing.by_device(folders)
            return Routing.by_key(folders)
        case RawBlockConfig():
            places = config.places()
            if config.per_rank_device_paths:
                return Routing.by_rank([place.rank for place in places])
            return Routing.by_key(len(places))
        case _:
            return ONE_PLACE
