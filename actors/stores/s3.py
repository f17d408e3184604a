"""Objects in a bucket, by the library `obstore`: S3, Google Cloud, Azure, a local folder, memory.

    <url>/<2 hex>/<64 hex>               header, then payload

    saving   up to `multipart_over`: one request, sent straight from the arena
             above: in parts, some at a time; given up, the upload is aborted
    loading  up to `part_bytes`: one request
             above: the first range tells length and version, the others ask for that version

An object is visible when its upload is complete, and not before. It is shared: what others put there is found, nothing
is counted, and nothing is evicted by us. Whoever retries is the actor.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
from typing_extensions import Buffer

from penstock.actors.api.store import Keys
from penstock.actors.stores.given_up import GivenUp
from penstock.actors.stores.held import held
from penstock.actors.stores.locating import locate
from penstock.actors.stores.s3_client import Trouble, open_client, trouble_of
from penstock.actors.stores.s3_config import LOCAL, MEMORY, S3Config
from penstock.actors.stores.store import (
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreFault,
    StoreRefused,
    Wanted,
    nothing_to_count,
)
from penstock.actors.stores.together import together
from penstock.runtime.units import KIB, MIB

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, GetResult
    from obstore.store import ObjectStore

INLINE_BYTES_MAX = 64 * KIB  # copied in the loop's own step; more goes to a thread
SLICE_BYTES = MIB  # handed to the library, or copied, at a time
VERSIONS_MAX = 3  # an object that is replaced while it is read is begun again so often
PROBE = "penstock-probe"  # nothing is called so
NOBODY_MAY = {401, 403}
NO_ROOM = {507}
NO_ROOM_CODES = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"}
NO_ROOM_ERRORS = {errno.ENOSPC, errno.EDQUOT}
EMPTY = 416  # a range of an object that has no byte


async def open_s3_store(config: S3Config, _: StoreContext) -> S3Store:
    """Raises StoreRefused: no library, no such bucket, no right to it; StoreFault."""
    client = await anyio.to_thread.run_sync(open_client, config)
    store = S3Store(config, client)
    await store.prepare()
    return store


class S3Store:
    """The objects below one prefix of one bucket."""

    ownership = Ownership.SHARED
    capacity_bytes = 0

    def __init__(self, config: S3Config, client: ObjectStore) -> None:
        import obstore
        from obstore import exceptions

        self._obstore = obstore
        # What the library raises of its own, beside FileNotFoundError.
        self._errors = (exceptions.BaseError, OSError, ValueError)
        self._precondition = exceptions.PreconditionError
        self._client = client
        self._config = config
        self._keeps_buffers = config.scheme in MEMORY  # of what is put there: those of the arena
        self._requests = asyncio.Semaphore(config.requests_max)
        self._copying = anyio.CapacityLimiter(2)
        self._given_up = GivenUp()

    async def prepare(self) -> None:
        """Ask for something that is not there. Raises StoreRefused, StoreFault."""
        key = f"stores.{self._config.name}"
        try:
            async with self._requests:
                await self._obstore.get_async(self._client, PROBE)
        except FileNotFoundError as error:
            if trouble_of(error).code == "NoSuchBucket":
                raise StoreRefused(f"{key}.url", "there is no such bucket: create it") from None
        except self._errors as error:
            trouble = trouble_of(error)
            if trouble.status in NOBODY_MAY:
                problem = f"{trouble}: needs the right to list, read, write and delete objects"
                raise StoreRefused(f"{key}.url", problem) from None
            raise self._fault(trouble) from None

    async def locate(self, keys: Keys) -> bytes:
        """What it has not answered in time is not there."""
        config = self._config
        return await locate(
            self._is_there, keys, at_once=config.requests_max, within_s=config.locate_within
        )

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return await together(self._load, wanted, at_once=self._config.requests_max)

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        # Of one key only the last: two at a time would race for its name.
        last = {one.key: one for one in given}
        await self._given_up.after(last)
        at_once = self._config.requests_max
        outcomes = await together(self._save, [*last.values()], at_once=at_once)
        told = dict(zip(last, outcomes, strict=True))
        return [told[one.key] for one in given]

    async def delete(self, keys: Keys) -> None:
        names = {*keys}
        await self._given_up.after(names)
        await together(self._delete, [*names], at_once=self._config.requests_max)

    def recover(self) -> AsyncIterator[list[Entry]]:
        return nothing_to_count()

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return header_bytes + payload_bytes

    async def aclose(self) -> None:
        await self._given_up.after_all()

    # Loading.

    async def _is_there(self, key: bytes) -> bool:
        try:
            async with self._requests:
                await self._obstore.head_async(self._client, _path(key))
        except FileNotFoundError:
            return False
        except self._errors as error:
            raise self._fault(trouble_of(error)) from None
        return True

    async def _load(self, wanted: Wanted) -> Outcome:
        try:
            for _ in range(VERSIONS_MAX):
                try:
                    return await self._load_version(wanted)
                except self._precondition:
                    continue
        except FileNotFoundError:
            return MISSING
        except self._errors as error:
            trouble = trouble_of(error)
            fate = Fate.REFUSED if trouble.status == EMPTY else Fate.FAULT
            return Outcome(fate, reason=str(trouble))
        return Outcome(Fate.FAULT, reason="it is replaced again and again while it is read")

    async def _load_version(self, wanted: Wanted) -> Outcome:
        """Raises what the library does; its PreconditionError if the object was replaced meanwhile."""
        header, room = len(wanted.header), len(wanted.header) + len(wanted.payload)
        part = self._config.part_bytes
        ranged = room > part
        async with self._requests:
            first = await self._get(wanted, {"range": (0, part)} if ranged else {})
            size = first.meta["size"]
            if not header <= size <= room:
                # Before a byte of it is read.
                reason = f"it has {size} bytes, expected are {header} to {room}"
                return Outcome(Fate.REFUSED, reason=reason)
            await self._place(wanted, first, (0, min(part, size) if ranged else size))
        version: GetOptions = {"if_match": first.meta["e_tag"]}

        async def rest(start: int) -> None:
            end = min(start + part, size)
            async with self._requests:
                result = await self._get(wanted, {**version, "range": (start, end)})
                await self._place(wanted, result, (start, end))

        if ranged:
            starts = range(part, size, part)
            await together(rest, starts, at_once=self._config.requests_max)
        return Outcome(Fate.DONE, size - header)

    async def _get(self, wanted: Wanted, options: GetOptions) -> GetResult:
        return await self._obstore.get_async(self._client, _path(wanted.key), options=options)

    async def _place(self, wanted: Wanted, result: GetResult, wants: tuple[int, int]) -> None:
        """Copy this range to where it belongs. Returns, given up or not, when nobody writes there any more."""
        if tuple(result.range) != wants:
            raise OSError(f"asked for the range {wants}, got {result.range}")
        at, end = wants
        async for chunk in self._chunks(result):
            if at + len(chunk) > end:
                raise OSError(f"more than {end - wants[0]} bytes came")
            copy = partial(_copy, wanted, at, chunk)
            if len(chunk) <= INLINE_BYTES_MAX:
                copy()
            else:
                await anyio.to_thread.run_sync(copy, limiter=self._copying)
            at += len(chunk)
        if at != end:
            raise OSError(f"{at - wants[0]} bytes came instead of {end - wants[0]}")

    async def _chunks(self, result: GetResult) -> AsyncIterator[Bytes | bytes]:
        """Of an answer, as it comes: whoever hears enough leaves the rest unread."""
        if self._config.scheme in LOCAL | MEMORY:
            yield await result.bytes_async()
            return
        async for chunk in result.stream(min_chunk_size=SLICE_BYTES):
            yield chunk

    # Saving and deleting.

    async def _save(self, given: Given) -> Outcome:
        upload = _Upload(given)
        source: Iterable[Buffer] = upload
        if self._keeps_buffers:
            source = [await anyio.to_thread.run_sync(b"".join, upload, limiter=self._copying)]
        await self._requests.acquire()
        sent = self._put(upload, source)
        sent.add_done_callback(lambda _: self._requests.release())
        try:
            # Shielded: it ends by itself, soon if its source fails, and until then nobody else saves this key.
            await asyncio.shield(sent)
        except asyncio.CancelledError:
            upload.is_given_up = True
            raise
        except self._errors as error:
            return _not_saved(trouble_of(error))
        finally:
            self._given_up.add(sent, given.key)
        return DONE

    def _put(self, upload: _Upload, source: Iterable[Buffer]) -> asyncio.Future[object]:
        sent = self._obstore.put_async(
            self._client,
            _path(upload.given.key),
            source,
            use_multipart=upload.size_bytes > self._config.multipart_over,
            chunk_size=self._config.part_bytes,
            max_concurrency=self._config.parts_max,
        )
        # Declared as a coroutine, it is a future of the library's own: it runs whether it is awaited or not.
        assert asyncio.isfuture(sent)
        return cast("asyncio.Future[object]", sent)

    async def _delete(self, key: bytes) -> None:
        try:
            async with self._requests:
                await self._obstore.delete_async(self._client, _path(key))
        except FileNotFoundError:
            return
        except self._errors as error:
            raise self._fault(trouble_of(error)) from None

    def _fault(self, trouble: Trouble) -> StoreFault:
        return StoreFault(f"{self._config.name}: {trouble}")


class _Abandoned(Exception):
    """Ours: the upload was given up; the library passes it on and aborts."""


class _Upload:
    """The bytes of one object, as the library's own threads take them: slice by slice, without a copy."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.size_bytes = len(given.header) + given.payload_bytes
        self.is_given_up = False  # set by the loop, read by the library's threads

    def __iter__(self) -> Iterator[memoryview]:
        given = self.given
        yield held(given.header, given.hold)
        for start in range(0, given.payload_bytes, SLICE_BYTES):
            if self.is_given_up:
                raise _Abandoned
            end = min(start + SLICE_BYTES, given.payload_bytes)
            yield held(given.payload[start:end], given.hold)


def _path(key: bytes) -> str:
    name = key.hex()
    return f"{name[:2]}/{name}"


def _copy(wanted: Wanted, at: int, chunk: Bytes | bytes) -> None:
    """To byte `at` of header and payload, which have room for it. The view makes one piece of what came in several."""
    data = memoryview(chunk)
    split = min(max(0, len(wanted.header) - at), data.nbytes)
    wanted.header[at : at + split] = data[:split]
    begin = at + split - len(wanted.header)
    for start in range(split, data.nbytes, SLICE_BYTES):
        end = min(start + SLICE_BYTES, data.nbytes)
        wanted.payload[begin + start - split : begin + end - split] = data[start:end]


def _not_saved(trouble: Trouble) -> Outcome:
    is_full = (
        trouble.status in NO_ROOM
        or trouble.code in NO_ROOM_CODES
        or trouble.os_error in NO_ROOM_ERRORS
    )
    return Outcome(Fate.FULL if is_full else Fate.FAULT, reason=str(trouble))
