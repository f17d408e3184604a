"""Stores with transforms, over memory, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.lowlevel import checkpoint
from support.transforms import KEYS_A

from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.samples import Sample
from penstock.actors.stores.store import Fate
from penstock.actors.stores.transform import Pipeline, Step
from penstock.actors.stores.transform_config import ZstdConfig
from penstock.actors.stores.transform_keys import parse_keys
from penstock.actors.stores.transform_seal import SealStep
from penstock.actors.stores.transform_store import TransformedStore, TransformLimits
from penstock.actors.stores.transform_zstd import ZstdStep
from penstock.runtime.units import MIB


def seal() -> SealStep:
    return SealStep(parse_keys(KEYS_A, "keys"))


def zstd() -> ZstdStep:
    return ZstdStep(ZstdConfig())


def transformed(
    steps: Sequence[Step], shelf: Shelf | None = None, *, bounce_bytes_max: int = 64 * MIB
) -> TransformedStore:
    limits = TransformLimits(bounce_bytes_max, threads=2)
    return TransformedStore(MemoryStore(shelf), Pipeline(steps), limits)


async def settled() -> None:
    """What other threads told the loop has been heard."""
    for _ in range(3):
        await checkpoint()


async def come_back(store: TransformedStore, samples: Sequence[Sample]) -> None:
    wanted = [one.wanted() for one in samples]
    outcomes = await store.load(wanted)
    assert {one.fate for one in outcomes} == {Fate.DONE}, outcomes
    for one, into in zip(samples, wanted, strict=True):
        assert await one.is_in(into)
