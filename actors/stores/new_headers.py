"""Headers of objects that are to be saved: all of a batch in one native call."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from penstock._native import write_headers
from penstock.actors.api.store import Source
from penstock.actors.stores.header import NO_TENANT, TENANT_BYTES
from penstock.actors.stores.pages import fresh_pages

OBJECTS_A_STEP = 256  # of the loop: about a microsecond each


async def make_headers(sources: Sequence[Source], sizes: Sequence[int]) -> list[memoryview]:
    """Page-aligned. `sizes`: as `header_bytes` says of each."""
    headers: list[memoryview] = []
    for first in range(0, len(sources), OBJECTS_A_STEP):
        if first:
            await checkpoint()
        end = first + OBJECTS_A_STEP
        headers += _made(sources[first:end], sizes[first:end])
    return headers


def short_tenant(source: Source) -> bytes:
    """The first half of the digest: enough to tell tenants apart, and what a header has room for."""
    return source.tenant[:TENANT_BYTES] if source.tenant else NO_TENANT


def _made(sources: Sequence[Source], sizes: Sequence[int]) -> list[memoryview]:
    (pages,) = fresh_pages([sum(sizes)])
    write_headers(
        pages,
        keys=b"".join([one.key for one in sources]),
        namespaces=b"".join([one.namespace for one in sources]),
        tenants=b"".join([*map(short_tenant, sources)]),
        logical_bytes=[one.logical_bytes for one in sources],
        digests=[one.digest for one in sources],
        run_digests=[one.run_digests for one in sources],
    )
    headers, start = [], 0
    for size in sizes:
        headers.append(pages[start : start + size])
        start += size
    return headers
