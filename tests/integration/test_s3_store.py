"""The s3 store against a real server that is killed, stopped or replaced, and against servers that answer wrongly."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.http_script import Reply, answer, http_script
from support.s3_server import S3Server, s3_server, secret_files, shared_s3_server

from penstock.actors.api.types import Epoch
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.s3 import S3Store, open_s3_store
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreContext, StoreFault, StoreRefused, Wanted
from penstock.runtime.units import KIB, MIB, Seconds

pytest.importorskip("obstore", reason="pip install penstock[s3]")

CONTEXT = StoreContext("bucket", Epoch(bytes(16)))
LARGE = 22 * MIB  # three parts of 8 MiB


@pytest.fixture(scope="module")
def server() -> S3Server:
    return shared_s3_server()


@pytest.fixture
def config(server: S3Server, tmp_path: Path) -> Iterator[S3Config]:
    with secret_files(tmp_path / "secrets") as files:
        yield of(server.endpoint, f"s3://{server.new_bucket()}/kv", files)


def of(endpoint: str, url: str, files: dict[str, Path], **given: Any) -> S3Config:
    defaults: dict[str, Any] = {"request_within": Seconds(10), "region": "us-east-1"}
    return S3Config(
        name="bucket", url=url, endpoint=endpoint, secret_files=files, **(defaults | given)
    )


def play(config: S3Config, scene: Callable[[S3Store], Awaitable[None]]) -> None:
    async def run() -> None:
        store = await open_s3_store(config, CONTEXT)
        try:
            await scene(store)
        finally:
            await store.aclose()

    anyio.run(run)


async def saved(store: S3Store, *samples: Sample) -> list[Fate]:
    return [one.fate for one in await store.save([sample.given() for sample in samples])]


def bucket(config: S3Config) -> str:
    return config.url.split("/")[2]


@pytest.mark.loop_step_ms(30)  # the test's own 22 MiB
def test_a_large_object_goes_in_parts_and_comes_back_by_ranges(
    server: S3Server, config: S3Config
) -> None:
    """One object is one key below its two first digits, of header and payload, whatever way it was sent."""

    async def scene(store: S3Store) -> None:
        large, small = await make_sample(1, LARGE), await make_sample(2, 5 * MIB)
        assert await saved(store, large, small) == [Fate.DONE] * 2
        wanted = [one.wanted() for one in (large, small)]
        assert [one.fate for one in await store.load(wanted)] == [Fate.DONE] * 2
        assert await large.is_in(wanted[0])
        assert await small.is_in(wanted[1])

        def look() -> None:
            listed = server.client().list_objects_v2(Bucket=bucket(config))["Contents"]
            sizes = {one["Key"]: (one["Size"], "-3" in one["ETag"]) for one in listed}
            names = [f"kv/{one.key.hex()[:2]}/{one.key.hex()}" for one in (large, small)]
            assert sizes == {
                names[0]: (4096 + LARGE, True),
                names[1]: (4096 + 5 * MIB, False),
            }

        await anyio.to_thread.run_sync(look)

    play(config, scene)


def test_an_object_of_another_length_is_refused_before_it_is_read(config: S3Config) -> None:
    """A11. Seen to fail with the check of the length taken out: memory beyond the place is written to."""

    async def scene(store: S3Store) -> None:
        sample = await make_sample(1, 9 * MIB)
        assert await saved(store, sample) == [Fate.DONE]
        for room in (4 * KIB, 8 * MIB, 9 * MIB - 4 * KIB):
            header, memory = fresh_pages([4096, 10 * MIB])
            wanted = Wanted(sample.key, 0, header, memory[:room], None)
            outcome = (await store.load([wanted]))[0]
            assert outcome.fate is Fate.REFUSED
            assert "it has 9441280 bytes" in outcome.reason
            assert not any(memory[start] for start in range(0, len(memory), 4 * KIB))
        long_header = fresh_pages([16 * MIB])[0]
        wanted = Wanted(sample.key, 0, long_header, fresh_pages([4096])[0], None)
        assert (await store.load([wanted]))[0].fate is Fate.REFUSED

    play(config, scene)


def test_an_upload_that_is_given_up_is_aborted(server: S3Server, config: S3Config) -> None:
    """A6: nothing is visible, and no part stays behind."""

    async def scene(store: S3Store) -> None:
        sample = await make_sample(1, LARGE)
        begun = anyio.Event()

        async def save() -> None:
            begun.set()
            await saved(store, sample)

        async with anyio.create_task_group() as group:
            group.start_soon(save)
            await begun.wait()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await store.aclose()

        def look() -> tuple[int, int]:
            client = server.client()
            uploads = client.list_multipart_uploads(Bucket=bucket(config)).get("Uploads", [])
            return len(uploads), client.list_objects_v2(Bucket=bucket(config))["KeyCount"]

        assert await anyio.to_thread.run_sync(look) == (0, 0)

    play(config, scene)


def test_parts_of_two_versions_are_never_put_together(config: S3Config) -> None:
    """While a large object is read, it is replaced, again and again."""

    async def scene(store: S3Store) -> None:
        versions = [await make_sample(1, LARGE, version=n) for n in range(2)]
        await saved(store, versions[0])

        async def replace() -> None:
            for n in range(1, 4):
                await saved(store, versions[n % 2])

        async with anyio.create_task_group() as group:
            group.start_soon(replace)
            for _ in range(6):
                wanted = versions[0].wanted()
                outcome = (await store.load([wanted]))[0]
                if outcome.fate is Fate.DONE:
                    assert any([await one.is_in(wanted) for one in versions])
                else:
                    assert outcome.fate is Fate.FAULT, outcome

    play(config, scene)


def test_a_server_that_stops_or_dies_costs_bounded_time(tmp_path: Path) -> None:
    """B1: what it does not answer fails in time; what was under way too; memory is let go of."""
    with s3_server() as server, secret_files(tmp_path) as files:
        url = f"s3://{server.new_bucket()}"
        config = of(server.endpoint, url, files, stall_within=Seconds(0.5))

        async def scene(store: S3Store) -> None:
            sample = await make_sample(1, 300_000)
            assert await saved(store, sample) == [Fate.DONE]
            server.stop()
            assert (await store.load([sample.wanted()]))[0].fate is Fate.FAULT
            with pytest.raises(StoreFault, match="bucket: GenericError"):
                await store.locate(keys_of([sample]))
            server.go_on()
            assert (await store.load([sample.wanted()]))[0].fate is Fate.DONE
            server.kill()
            outcomes = [*await store.load([sample.wanted()]), *await store.save([sample.given()])]
            assert [one.fate for one in outcomes] == [Fate.FAULT] * 2
            with pytest.raises(StoreFault):
                await store.delete(keys_of([sample]))

        play(config, scene)


WHOLE = b"x" * 8192
TAG = {"etag": '"1"', "last_modified": "Fri, 20 Nov 2026 10:00:00 GMT"}


@pytest.mark.parametrize(
    ("reply", "fate"),
    [
        (answer(500, b"<Error><Code>InternalError</Code></Error>"), Fate.FAULT),
        (answer(503), Fate.FAULT),
        (answer(404), Fate.MISSING),
        (answer(416), Fate.REFUSED),
        (answer(200, b"not an object"), Fate.REFUSED),  # and without a version
        (answer(200, b"not an object", **TAG), Fate.REFUSED),
        (answer(200, WHOLE + b"more", **TAG), Fate.REFUSED),
        (answer(200, WHOLE, **TAG, content_length="9000"), Fate.REFUSED),
        (answer(302, location="http://127.0.0.1:1/"), Fate.FAULT),
    ],
)
def test_a_wrong_answer_is_no_object(tmp_path: Path, reply: Reply, fate: Fate) -> None:
    """A9, A11: errors, redirections, other lengths, nonsense."""
    with http_script(_first(answer(404), reply)) as endpoint, secret_files(tmp_path) as files:

        async def scene(store: S3Store) -> None:
            header, payload = fresh_pages([4096, 4096])
            outcome = (await store.load([Wanted(bytes(32), 0, header, payload, None)]))[0]
            assert outcome.fate is fate, outcome
            assert not any(payload), "written before it was known what came"

        play(of(endpoint, "s3://any", files), scene)


def test_an_answer_that_breaks_off_is_a_fault(tmp_path: Path) -> None:
    """A9: half of the body came, then the connection ended."""

    def half(request: BaseHTTPRequestHandler) -> None:
        answer(200, WHOLE[:5000], **TAG, content_length="8192")(request)
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True

    with http_script(_first(answer(404), half)) as endpoint, secret_files(tmp_path) as files:

        async def scene(store: S3Store) -> None:
            header, payload = fresh_pages([4096, 4096])
            outcome = (await store.load([Wanted(bytes(32), 0, header, payload, None)]))[0]
            assert outcome.fate is Fate.FAULT, outcome

        play(of(endpoint, "s3://any", files), scene)


@pytest.mark.parametrize(
    ("reply", "fate"),
    [
        (answer(500), Fate.FAULT),
        (answer(507), Fate.FULL),
        (answer(400, b"<Error><Code>XMinioStorageFull</Code></Error>"), Fate.FULL),
    ],
)
def test_a_save_that_is_refused_says_why(tmp_path: Path, reply: Reply, fate: Fate) -> None:
    """C5: no room is no error of the node."""
    with http_script(_first(answer(404), reply)) as endpoint, secret_files(tmp_path) as files:

        async def scene(store: S3Store) -> None:
            assert await saved(store, await make_sample(1, 5000)) == [fate]

        play(of(endpoint, "s3://any", files), scene)


@pytest.mark.parametrize(
    ("reply", "raised", "problem"),
    [
        (answer(404, b"<Error><Code>NoSuchBucket</Code></Error>"), StoreRefused, "no such bucket"),
        (answer(403, b"<Error><Code>AccessDenied</Code></Error>"), StoreRefused, "the right to"),
        (answer(500), StoreFault, "HTTP 500"),
    ],
)
def test_what_cannot_work_is_told_when_it_is_opened(
    tmp_path: Path, reply: Reply, raised: type[Exception], problem: str
) -> None:
    with http_script(reply) as endpoint, secret_files(tmp_path) as files:

        async def scene(_: S3Store) -> None:
            pytest.fail("it was opened")

        with pytest.raises(raised, match=problem):
            play(of(endpoint, "s3://any", files), scene)


def test_configuration_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the configuration signs, and no token of the environment is mixed in."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token of the environment")
    seen: list[tuple[str, str | None]] = []

    def look(request: BaseHTTPRequestHandler) -> None:
        seen.append((request.headers["authorization"], request.headers.get("x-amz-security-token")))
        answer(404)(request)

    async def scene(store: S3Store) -> None:
        assert await store.locate(keys_of([await make_sample(1, 100)])) == b"\0"

    with http_script(look) as endpoint, secret_files(tmp_path) as files:
        play(of(endpoint, "s3://any", files), scene)
        assert all("AKIAPENSTOCKTEST" in signed and token is None for signed, token in seen), seen
        seen.clear()
        play(of(endpoint, "s3://any", {}), scene)
        assert all("AKIAENVIRONMENT" in signed and token for signed, token in seen), seen


def test_no_secret_is_ever_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """D1: not in logs, representations, reasons or errors, though the service repeats it in its answers.

    Seen to fail with the text of the library's error as the reason.
    """
    caplog.set_level(logging.DEBUG)
    secrets: list[str] = []
    shown: list[str] = []

    def tell(request: BaseHTTPRequestHandler) -> None:
        signed = request.headers.get("authorization", "")
        body = f"<Error><Code>SignatureDoesNotMatch</Code><Said>{signed} {secrets}</Said></Error>"
        answer(400, body.encode())(request)

    with http_script(_first(answer(404), tell)) as endpoint, secret_files(tmp_path) as files:
        secrets += [path.read_text().strip() for path in files.values()]
        config = of(endpoint, "s3://any", files)

        async def scene(store: S3Store) -> None:
            sample = await make_sample(1, 5000)
            outcomes = [*await store.load([sample.wanted()]), *await store.save([sample.given()])]
            shown.extend(map(repr, [store, vars(store), config, *outcomes]))
            for work in (store.locate, store.delete):
                with pytest.raises(StoreFault) as fault:
                    await work(keys_of([sample]))
                shown.extend([repr(fault.value), str(fault.value.__cause__)])

        play(config, scene)
    shown += [caplog.text, *capfd.readouterr()]
    assert "SignatureDoesNotMatch" in "".join(shown)
    assert not [one for one in secrets if one in "".join(shown)]


def _first(first: Reply, then: Reply) -> Reply:
    """One answer to the question that opening asks, another to all others."""

    def reply(request: BaseHTTPRequestHandler) -> None:
        (first if "penstock-probe" in request.path else then)(request)

    return reply
