"""A filesystem that fails: whatever its library raises, it costs its own answers, and no secret is told."""

from __future__ import annotations

import errno
import ftplib
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from support.eventually import eventually
from support.far_files import FarFiles, raising
from support.store_world import source, store_world, target

from penstock.actors import store_actor
from penstock.actors.api import store as api
from penstock.actors.api.store import LoadOutcome, SaveOutcome, StoreState
from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import BreakerConfig
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.fsspec_store import FsspecStore, open_fsspec_store
from penstock.actors.stores.samples import Hold, keys_of, make_sample
from penstock.actors.stores.store import Fate, Store, StoreContext, StoreFault, StoreRefused
from penstock.runtime.units import Seconds

fsspec = pytest.importorskip("fsspec", reason="pip install penstock[fsspec]")

SECRET = "X-Amz-Signature=not-to-be-seen"
CONTEXT = StoreContext("tested", Epoch(bytes(16)))


class ClientError(Exception):
    """As botocore's: of no family, its status deep inside."""

    def __init__(self) -> None:
        super().__init__(f"https://host/bucket?{SECRET}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": 503}}


class ClientResponseError(Exception):
    """As aiohttp's: its status at hand, and a property that must not be asked for."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.status = 403

    @property
    def code(self) -> int:
        raise AssertionError("it is deprecated, and would warn")


ERRORS = [
    (ftplib.error_temp(f"421 {SECRET}"), "error_temp"),
    (ConnectionResetError(errno.ECONNRESET, SECRET), "ConnectionResetError, ECONNRESET"),
    (ClientError(), "ClientError, HTTP 503"),
    (ClientResponseError(), "ClientResponseError, HTTP 403"),
    (SystemExit(SECRET), "SystemExit"),
]


def configured(**given: Any) -> FsspecConfig:
    return FsspecConfig(**{"name": "tested", "url": "memory://far"} | given)


async def opened(files: FarFiles, **given: Any) -> FsspecStore:
    return files.under(await open_fsspec_store(configured(**given), CONTEXT))


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is let go of is let go of at once: a node that serves collects rarely."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("error", "told"), ERRORS, ids=[told for _, told in ERRORS])
def test_an_error_of_any_class_costs_its_own_answer_and_tells_no_words(
    error: BaseException, told: str
) -> None:
    """B5, D1: never the life of the actor, which would be the node's after four.

    Seen to fail: an OSError in `locate` and `delete` came as a group of errors, which nobody expected, and what is no
    OSError, RuntimeError or ValueError was expected nowhere."""
    files = FarFiles()

    async def run() -> None:
        async with store_world(
            lambda: opened(files), configured(attempts_max=1, breaker=BreakerConfig(failures=2))
        ) as world:
            sample = await make_sample(1, 20_000)
            calls = ("exists", "cat_file", "pipe_file", "rm_file")
            files.troubles = dict.fromkeys(calls, raising(error))
            for _ in range(2):
                found = await world.ref.ask(api.Locate(keys_of([sample])), within=5)
                assert found == b"\0"
            health = (await world.measure()).detail
            assert told in health
            assert SECRET not in health
            (saved,) = await world.save(source(sample))
            assert (saved.outcome, saved.reason) == (SaveOutcome.FAILED, told)
            with pytest.raises(StoreFault, match="could not be|tested: ") as fault:
                await world.ref.ask(api.Delete(keys_of([sample])), within=5)
            assert SECRET not in str(fault.value)
            assert len(world.lives) == 1
        store = await opened(files)
        files.troubles = {"cat_file": raising(error)}
        (outcome,) = await store.load([sample.wanted()])
        assert (outcome.fate, outcome.reason) == (Fate.FAULT, told)

    anyio.run(run)


def test_a_server_that_is_down_at_the_start_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B5. Seen to fail: what its library raised when it was made ended the node."""
    attempts = 0

    class Down(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        protocol = "penstock-down"
        cachable = False

        def __init__(self, **options: Any) -> None:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise ftplib.error_temp(SECRET)
            super().__init__(**options)

    fsspec.register_implementation("penstock-down", Down, clobber=True)
    monkeypatch.setattr(store_actor, "OPEN_PAUSE_S", 0.01)
    config = configured(url="penstock-down://far")

    async def run() -> None:
        async with store_world(lambda: open_fsspec_store(config, CONTEXT), config) as world:
            assert "error_temp" in (await world.measure()).detail

            async def is_open() -> bool:
                return (await world.measure()).state is StoreState.OPEN

            await eventually(is_open, within=10, what="the server is there")
            assert len(world.lives) == 1

    anyio.run(run)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": f"sfpt://{SECRET}@host/x"}, r"url: sfpt cannot be used: Protocol not known"),
        ({"url": f"memory://x::nowhere://{SECRET}"}, "url: nowhere cannot be used"),
        ({"url": f"{SECRET}://x"}, r"url: must be written protocol://path"),
        (
            {"url": "file:///tmp", "options": {"auto_mkdir": SECRET, "of_no_use": SECRET}},
            r"options: .* of_no_use",
        ),
    ],
)
def test_what_can_never_work_is_refused(given: dict[str, Any], said: str) -> None:
    """E4: with its path, and without what may be a secret."""

    def refuse(_: object, **options: object) -> None:
        raise TypeError(f"unexpected keyword argument: {options}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsspec.implementations.local.LocalFileSystem.__init__", refuse)
        with pytest.raises(StoreRefused, match=said) as refused:
            anyio.run(open_fsspec_store, configured(**given), CONTEXT)
    assert SECRET not in str(refused.value)


def test_a_url_that_is_none_is_not_repeated() -> None:
    """D1."""
    with pytest.raises(ValueError, match="protocol://path") as refused:
        configured(url=f"ftp:/user:{SECRET}@host")
    assert SECRET not in str(refused.value)


def test_what_is_deleted_stays_deleted_when_a_save_was_given_up() -> None:
    """A6: what comes later has the last word. Seen to fail: the save, still under way in its thread, had it."""
    files = FarFiles()
    has_begun, may_go = threading.Event(), threading.Event()

    def slow() -> None:
        has_begun.set()
        assert may_go.wait(10)

    async def run() -> None:
        store: Store = await opened(files)
        sample = await make_sample(1, 20_000)
        files.troubles["pipe_file"] = slow
        async with anyio.create_task_group() as group:
            group.start_soon(store.save, [sample.given()])
            assert await anyio.to_thread.run_sync(has_begun.wait, 10)
            group.cancel_scope.cancel()
        async with anyio.create_task_group() as group:
            group.start_soon(store.delete, keys_of([sample]))
            await anyio.wait_all_tasks_blocked()
            may_go.set()
        assert await store.locate(keys_of([sample])) == b"\0"
        await store.aclose()

    anyio.run(run)


def test_a_save_whose_folder_vanishes_has_failed() -> None:
    """Seen to fail: it was told as MISSING, which a save cannot be."""
    files = FarFiles()

    async def run() -> None:
        store = await opened(files)
        files.troubles["pipe_file"] = raising(FileNotFoundError(errno.ENOENT, SECRET))
        (outcome,) = await store.save([(await make_sample(1, 20_000)).given()])
        assert (outcome.fate, outcome.reason) == (Fate.FAULT, "FileNotFoundError, ENOENT")

    anyio.run(run)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), ClientError()], ids=repr)
def test_an_error_that_its_library_keeps_holds_no_memory(error: Exception) -> None:
    """A2: of what is missing or fails, the place in the arena is free again at once."""
    files = FarFiles()

    async def run() -> None:
        store = await opened(files)
        files.troubles["cat_file"] = raising(error)
        hold = Hold()
        seen = weakref.ref(hold)
        await store.load([(await make_sample(1, 20_000)).wanted(hold)])
        del hold
        assert seen() is None

    anyio.run(run)


def test_a_locate_tells_what_it_knows_when_its_time_is_over() -> None:
    """B3: that many names take long is no failure. Seen to fail: nothing of it was told, and it counted as failed."""
    files = FarFiles()
    may_go = threading.Event()
    asked = 0

    def slow() -> None:
        nonlocal asked
        asked += 1
        if asked > 4:
            may_go.wait(10)

    async def run() -> None:
        config = configured(threads=2, locate_within=Seconds(0.2))
        async with store_world(
            lambda: opened(files, threads=2, locate_within=Seconds(0.2)), config
        ) as world:
            some = [await make_sample(n, 4096) for n in range(20)]
            await world.save(*map(source, some))
            files.troubles["exists"] = slow
            found = await world.ref.ask(api.Locate(keys_of(some)), within=5)
            assert found == b"\1" * 4 + bytes(16)
            may_go.set()
            assert (await world.measure()).state is StoreState.OPEN
            (loaded,) = await world.load(target(some[9]))
            assert loaded.outcome is LoadOutcome.LOADED

    anyio.run(run)
