"""The s3 store: over HTTP to a real server, as one request and in parts; over a local folder; over memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.s3_server import secret_files, shared_s3_server

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.s3 import S3Store
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.store import Store, StoreContext
from penstock.runtime.units import MIB, ByteSize, Seconds

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]
CONTEXT = StoreContext("bucket", Epoch(bytes(16)))


def over_http(*, multipart_over: int = 16 * MIB) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        await anyio.to_thread.run_sync(_obstore)
        server = await anyio.to_thread.run_sync(shared_s3_server)
        bucket = await anyio.to_thread.run_sync(server.new_bucket)
        with secret_files(directory) as files:
            config = S3Config(
                name="bucket",
                url=f"s3://{bucket}/of/{directory.name}",
                endpoint=server.endpoint,
                region="us-east-1",
                secret_files=files,
                multipart_over=ByteSize(multipart_over),
                part_bytes=ByteSize(5 * MIB),
                request_within=Seconds(10),
                requests_max=1,  # moto answers 500 to some that race for one key
            )

            async def open_it() -> Store:
                return await open_store(config, CONTEXT)

            yield Subject(open_it, is_persistent=True)

    return make


@asynccontextmanager
async def local(directory: Path) -> AsyncIterator[Subject]:
    await anyio.to_thread.run_sync(_obstore)
    config = S3Config(name="bucket", url=f"file://{directory}/objects")

    async def open_it() -> Store:
        return await open_store(config, CONTEXT)

    yield Subject(open_it, is_persistent=True)


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[Subject]:
    config = S3Config(name="bucket", url="memory:///")
    obstore = await anyio.to_thread.run_sync(_obstore)
    client = obstore.MemoryStore()

    async def open_it() -> Store:
        return S3Store(config, client)

    yield Subject(open_it, is_persistent=True)


def _obstore() -> Any:
    """In a thread: what is loaded for the first time takes its time."""
    return pytest.importorskip("obstore.store", reason="pip install penstock[s3]")


SUBJECTS: dict[str, Make] = {
    "s3": over_http(),
    "s3 in parts": over_http(multipart_over=0),
    "s3 local": local,
    "s3 memory": memory,
}
