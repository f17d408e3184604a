"""The names of a prompt's objects outside the table: in stores, and among peers."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from penstock.actors.api.store import DEVICE_BYTES, Keys
from penstock.actors.api.types import KEY_BYTES, Shape
from penstock.actors.keys import object_key

KEYS_A_STEP = 1024  # named in one step of the loop: about a millisecond


def object_keys(shape: Shape, chunk_keys: bytes, slots: Sequence[int]) -> Keys:
    """The keys of these slots' objects of every chunk, chunk-major. About a microsecond each."""
    kinds = [(shape.slots[slot].group, shape.slots[slot].shard) for slot in slots]
    named = [
        object_key(chunk_keys[start : start + KEY_BYTES], group=group, shard=shard)
        for start in range(0, len(chunk_keys), KEY_BYTES)
        for group, shard in kinds
    ]
    devices = b"".join([shard.to_bytes(DEVICE_BYTES, "little") for _, shard in kinds])
    return Keys(b"".join(named), devices * (len(chunk_keys) // KEY_BYTES), chunk_keys, slots)


async def object_keys_in_steps(shape: Shape, chunk_keys: bytes, slots: Sequence[int]) -> Keys:
    """As `object_keys`; others get their turn between its steps."""
    step_bytes = max(1, KEYS_A_STEP // max(1, len(slots))) * KEY_BYTES
    if len(chunk_keys) <= step_bytes:
        return object_keys(shape, chunk_keys, slots)
    parts = []
    for start in range(0, len(chunk_keys), step_bytes):
        parts.append(object_keys(shape, chunk_keys[start : start + step_bytes], slots))
        await checkpoint()
    packed = b"".join(part.packed for part in parts)
    return Keys(packed, b"".join(part.devices for part in parts), chunk_keys, slots)
