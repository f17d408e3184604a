"""Objects to check stores with: made from a seed, with their headers, and known again byte for byte."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from anyio.lowlevel import checkpoint

from penstock._native import crc64
from penstock.actors.api.store import Keys
from penstock.actors.stores.header import NO_TENANT, Header, encode_into, header_bytes, whole_blocks
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.store import Given, Wanted
from penstock.runtime.units import MIB

NAMESPACE = hashlib.sha256(b"penstock store check").digest()
STEP_BYTES = MIB  # filled or compared in one step of the loop


class Hold:
    """Keeps a sample's memory, as a lease keeps an extent; can be referred to weakly."""


@dataclass(frozen=True, slots=True)
class Sample:
    key: bytes
    device: int
    logical_bytes: int
    digest: int
    header: memoryview
    payload: memoryview  # whole blocks

    def given(self, hold: object = None, *, tenant: bytes = NO_TENANT) -> Given:
        """To be saved."""
        return Given(
            self.key, self.device, tenant, self.header, self.payload, len(self.payload), hold
        )

    def wanted(self, hold: object = None) -> Wanted:
        """To be loaded, into fresh memory."""
        header, payload = fresh_pages([len(self.header), len(self.payload)])
        return Wanted(self.key, self.device, header, payload, hold)

    async def is_in(self, wanted: Wanted) -> bool:
        """Whether this sample is what was loaded."""
        if bytes(wanted.header[: len(self.header)]) != self.header:
            return False
        for start in range(0, len(self.payload), STEP_BYTES):
            await checkpoint()
            end = start + STEP_BYTES
            # As bytes: memoryviews are compared one by one.
            if bytes(wanted.payload[start:end]) != bytes(self.payload[start:end]):
                return False
        return True


async def make_sample(
    seed: int, logical_bytes: int, *, version: int = 0, device: int = 0
) -> Sample:
    """The `version` of the object that `seed` names; versions of one object differ in every block."""
    draw = random.Random(f"{seed}/{version}")
    header, payload = fresh_pages([header_bytes(1), whole_blocks(logical_bytes)])
    pattern = _numbers(draw) * (STEP_BYTES // 4096)
    digest = 0
    for start in range(0, logical_bytes, STEP_BYTES):
        await checkpoint()
        part = payload[start : min(start + STEP_BYTES, logical_bytes)]
        part[:] = pattern[: len(part)]
        part[:2] = _number(1, start // STEP_BYTES % 8, start // STEP_BYTES // 8)[: len(part)]
        digest = crc64(part, initial=digest)
    key = hashlib.sha256(f"sample {seed}".encode()).digest()
    told = Header(
        key=key,
        namespace=NAMESPACE,
        tenant=NO_TENANT,
        logical_bytes=logical_bytes,
        stored_bytes=logical_bytes,
        digest=digest,
        run_digests=digest.to_bytes(8, "little"),
    )
    encode_into(told, header)
    return Sample(key, device, logical_bytes, digest, header, payload)


def _numbers(draw: random.Random) -> bytes:
    """One block of bfloat16 numbers that a cast to fp8 keeps exactly: any transform gives these objects back."""
    return b"".join(
        _number(draw.getrandbits(1), draw.getrandbits(3), draw.getrandbits(3)) for _ in range(2048)
    )


def _number(sign: int, mantissa: int, exponent: int) -> bytes:
    """(-1)^sign * 1.mantissa * 2^-exponent, all of few bits."""
    return (sign << 15 | (127 - exponent) << 7 | mantissa << 4).to_bytes(2, "little")


def keys_of(samples: list[Sample]) -> Keys:
    return Keys.of([(one.key, one.device) for one in samples])
