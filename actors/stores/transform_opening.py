"""From a store's configuration to its transforms. Imports their libraries only when they are asked for."""

from __future__ import annotations

from typing import assert_never

from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.store import Store, StoreContext, StoreRefused
from penstock.actors.stores.transform import Pipeline, Step
from penstock.actors.stores.transform_config import (
    AesGcmConfig,
    AnyTransform,
    Fp8Config,
    ZstdConfig,
)
from penstock.actors.stores.transform_store import (
    INLINE_BYTES_MAX,
    TransformedStore,
    TransformLimits,
)

QUICK_LEVEL_MAX = 9  # of zstd: 64 KiB are compressed within a millisecond


def open_pipeline(config: StoreConfig, context: StoreContext) -> Pipeline | None:
    """None: the store has no transforms. Raises StoreRefused."""
    if not config.transforms:
        return None
    where = f"stores.{config.name}.transforms"
    try:
        return Pipeline(
            [
                _step(one, context, f"{where}.{number}")
                for number, one in enumerate(config.transforms)
            ]
        )
    except ImportError as missing:
        problem = f"a library is missing ({missing.name}): pip install penstock[transforms]"
        raise StoreRefused(where, problem) from None


def transformed(store: Store, pipeline: Pipeline | None, config: StoreConfig) -> Store:
    """`store` behind `pipeline`, if there is one."""
    if pipeline is None:
        return store
    levels = [one.level for one in config.transforms if isinstance(one, ZstdConfig)]
    limits = TransformLimits(
        int(config.bounce_bytes_max),
        config.transform_threads,
        inline_saved_bytes_max=INLINE_BYTES_MAX if max(levels, default=0) <= QUICK_LEVEL_MAX else 0,
    )
    return TransformedStore(store, pipeline, limits)


def _step(config: AnyTransform, context: StoreContext, where: str) -> Step:
    match config:
        case Fp8Config():
            from penstock.actors.stores.transform_fp8 import Fp8Step

            return Fp8Step(context.lossy)
        case ZstdConfig():
            from penstock.actors.stores.transform_zstd import ZstdStep

            return ZstdStep(config)
        case AesGcmConfig():
            from penstock.actors.stores.transform_keys import read_keys
            from penstock.actors.stores.transform_seal import SealStep

            return SealStep(read_keys(config, where))
        case _:
            assert_never(config)
