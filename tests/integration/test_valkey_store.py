"""The valkey store against real servers: full, killed, stopped, with TLS and users, and moved about in a cluster."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.tls_proxy import tls_proxy
from support.valkey_server import (
    Server,
    shared_valkey_cluster,
    shared_valkey_server,
    tls_files,
    valkey_server,
)

from penstock.actors.api.types import Epoch
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Outcome, StoreContext, StoreFault, StoreRefused
from penstock.actors.stores.valkey import ValkeyStore, open_valkey_store
from penstock.actors.stores.valkey_config import Mode, ValkeyConfig
from penstock.actors.stores.valkey_servers import slot_of
from penstock.runtime.units import MIB, ByteSize, Seconds

LARGE = 3 * MIB + 5 * 4096  # four parts of 1 MiB
PASSWORD = "correct-horse-not-to-be-seen"


def play(
    servers: list[Server], scene: Callable[[ValkeyStore, str], Awaitable[None]], **given: Any
) -> None:
    """`scene` with a store and its prefix; parts are of 1 MiB."""
    defaults: dict[str, Any] = {
        "addresses": tuple(one.address for one in servers),
        "mode": Mode.CLUSTER if len(servers) > 1 else Mode.STANDALONE,
        "prefix": f"{secrets.token_hex(4)}:",
        "part_bytes": ByteSize(MIB),
    }
    config = ValkeyConfig(name="shared", **(defaults | given))

    async def run() -> None:
        store = await open_valkey_store(config, StoreContext("shared", Epoch(bytes(16))))
        try:
            await scene(store, config.prefix)
        finally:
            await store.aclose()

    anyio.run(run)


async def saved(store: ValkeyStore, *samples: Sample) -> list[Fate]:
    return [one.fate for one in await store.save([sample.given() for sample in samples])]


async def loaded(store: ValkeyStore, *samples: Sample) -> list[Fate]:
    """And what is said to be loaded is what was saved."""
    wanted = [one.wanted() for one in samples]
    outcomes = await store.load(wanted)
    for one, into, outcome in zip(samples, wanted, outcomes, strict=True):
        assert outcome.fate is not Fate.DONE or await one.is_in(into)
    return [one.fate for one in outcomes]


def names(server: Server, prefix: str) -> list[bytes]:
    """Of all keys of that prefix."""
    return sorted(w for w in server.ask("KEYS", f"{prefix}*").split(b"\r\n") if b":" in w)


def test_a_large_object_is_in_parts_and_leaves_none_behind() -> None:
    """Of a version that is replaced, of one that is deleted; all go some day by themselves."""
    server = shared_valkey_server()

    async def scene(store: ValkeyStore, prefix: str) -> None:
        for version in range(3):
            sample = await make_sample(1, LARGE, version=version)
            assert await saved(store, sample) == [Fate.DONE]
            assert await loaded(store, sample) == [Fate.DONE]
        found = names(server, prefix)
        head = f"{prefix}{sample.key.hex()}".encode()
        assert found[0] == head
        assert len({name.split(b":")[2] for name in found[1:]}) == 1, "parts of two versions"
        assert [name.split(b":")[3] for name in found[1:]] == [b"0", b"1", b"2", b"3"]
        assert all(b":-1" not in server.ask("TTL", name) for name in found)
        await store.delete(keys_of([sample]))
        assert names(server, prefix) == []

    play([server], scene)


def test_where_nothing_expires_parts_do_until_their_head_is_there() -> None:
    """A node that dies between the parts and the head leaves nothing for ever."""
    server = shared_valkey_server()

    def ttls(found: list[bytes]) -> set[bytes]:
        return {server.ask("TTL", name) for name in found}

    async def cut(*_: object) -> Outcome:
        return Outcome(Fate.FAULT, reason="the node has died")

    async def scene(store: ValkeyStore, prefix: str) -> None:
        sample = await make_sample(1, LARGE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "_save_head", cut)
            assert await saved(store, sample) == [Fate.FAULT]
        left = names(server, prefix)
        assert len(left) == 4
        assert all(0 < int(ttl[1:]) <= 3600 for ttl in ttls(left))
        assert await saved(store, sample) == [Fate.DONE]
        kept = [name for name in names(server, prefix) if name not in left]
        assert len(kept) == 5
        assert ttls(kept) == {b":-1\r\n"}
        assert await loaded(store, sample) == [Fate.DONE]

    play([server], scene, ttl=Seconds(0))


def test_an_object_without_one_of_its_parts_is_a_miss() -> None:
    """The server evicts as it likes: A9. And parts of another version are never put in their place."""
    server = shared_valkey_server()

    async def scene(store: ValkeyStore, prefix: str) -> None:
        sample = await make_sample(1, LARGE)
        await saved(store, sample)
        part = names(server, prefix)[2]
        value = b"x" * 1000
        server.ask("SET", part, value)
        assert await loaded(store, sample) == [Fate.MISSING], "a part of another length"
        server.ask("DEL", part)
        assert await loaded(store, sample) == [Fate.MISSING]
        assert await saved(store, sample) == [Fate.DONE]
        assert await loaded(store, sample) == [Fate.DONE]

    play([server], scene)


def test_what_is_no_object_of_ours_is_refused() -> None:
    """A11: before a byte is written."""
    server = shared_valkey_server()

    async def scene(store: ValkeyStore, prefix: str) -> None:
        sample = await make_sample(1, 8192)
        name = f"{prefix}{sample.key.hex()}"
        for make in (["SET", name, "x"], ["SET", name, "x" * 9000], ["LPUSH", name, "x"]):
            server.ask("DEL", name)
            server.ask(*make)
            wanted = [sample.wanted(), sample.wanted()]  # together, and each alone
            outcomes = [*await store.load(wanted), *await store.load(wanted[:1])]
            assert [one.fate for one in outcomes] == [Fate.REFUSED] * 3, make[0]
            assert not any(wanted[0].payload)

    play([server], scene)


@pytest.mark.parametrize("size", [200_000, LARGE])
def test_a_full_server_fails_the_save_and_nothing_else(size: int) -> None:
    """C5: OOM is no room; what is there is still found; what did not get in left nothing; then there is room again."""
    with valkey_server(**{"maxmemory": "8mb", "maxmemory-policy": "noeviction"}) as server:

        async def scene(store: ValkeyStore, prefix: str) -> None:
            samples = [await make_sample(n, size) for n in range(8 * MIB // size + 2)]
            fates = [(await saved(store, one))[0] for one in samples]
            assert fates[0] is Fate.DONE
            assert fates[-1] is Fate.FULL
            there = [fate is Fate.DONE for fate in fates]
            assert list(await store.locate(keys_of(samples))) == there
            assert await loaded(store, samples[0], samples[-1]) == [Fate.DONE, Fate.MISSING]
            each = 1 if size <= MIB else 5
            assert len(names(server, prefix)) == each * sum(there)
            await store.delete(keys_of(samples))
            assert await saved(store, samples[-1]) == [Fate.DONE]

        play([server], scene)


def test_a_server_that_stops_or_dies_costs_bounded_time_and_is_found_again() -> None:
    """B1, B14: no answer within `stall_within` is a fault, a killed server too; then it is connected again."""
    with valkey_server() as server:

        async def scene(store: ValkeyStore, _: str) -> None:
            sample, large = await make_sample(1, 200_000), await make_sample(2, LARGE)
            assert await saved(store, sample, large) == [Fate.DONE] * 2
            server.stop()
            began_s = time.monotonic()
            assert await loaded(store, sample, large) == [Fate.FAULT] * 2
            assert await saved(store, sample, large) == [Fate.FAULT] * 2
            with pytest.raises(StoreFault, match="nothing moved|no connection"):
                await store.locate(keys_of([sample]))
            assert time.monotonic() - began_s < 5
            server.go_on()
            assert await saved(store, sample, large) == [Fate.DONE] * 2
            assert await loaded(store, sample, large) == [Fate.DONE] * 2
            server.kill()
            assert await loaded(store, sample) == [Fate.FAULT]
            with valkey_server(port=server.port):
                assert await loaded(store, sample) == [Fate.MISSING]
                assert await saved(store, sample) == [Fate.DONE]

        play([server], scene, stall_within=Seconds(0.3), connect_within=Seconds(0.3))


def test_a_save_given_up_is_whole_or_leaves_nothing() -> None:
    """A6: after any number of turns of the loop; its parts are gone too, or wanted by a head."""
    server = shared_valkey_server()

    async def scene(store: ValkeyStore, prefix: str) -> None:
        for turns in (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60):
            sample = await make_sample(turns, LARGE)
            async with anyio.create_task_group() as group:
                group.start_soon(saved, store, sample)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            await store._given_up.after_all()
            fate = (await loaded(store, sample))[0]  # on a connection after what removes parts
            for _ in range(20):
                await store.locate(keys_of([sample] * 4))
            left = [one for one in names(server, prefix) if sample.key.hex().encode() in one]
            assert (fate, len(left)) in {(Fate.DONE, 5), (Fate.MISSING, 0)}, (turns, left)

    play([server], scene)


def test_tls_and_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's certificate is verified, it asks for ours, and its ACL knows us; else it is refused."""
    monkeypatch.delenv("VALKEY_PASSWORD", raising=False)
    files = tls_files(tmp_path / "tls")
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    allowed = "~* +get +set +getrange +exists +unlink +ping +cluster|slots"
    with (
        valkey_server(user=f"app on >{PASSWORD} {allowed}") as server,
        tls_proxy(files, server.port) as port,
    ):
        given = {
            "addresses": (f"127.0.0.1:{port}",),
            "tls_ca": files["ca"],
            "tls_certificate": files["client"],
            "tls_key": files["client_key"],
            "user": "app",
            "password_file": password,
        }

        async def scene(store: ValkeyStore, _: str) -> None:
            some = [await make_sample(1, 200_000), await make_sample(2, LARGE)]
            assert await saved(store, *some) == [Fate.DONE] * 2
            assert await loaded(store, *some) == [Fate.DONE] * 2
            await store.delete(keys_of(some))
            assert await store.locate(keys_of(some)) == bytes(2)

        play([server], scene, **given)
        other = tls_files(tmp_path / "other")
        with pytest.raises(StoreFault, match="cannot be connected: CERTIFICATE_VERIFY_FAILED"):
            play([server], scene, **{**given, "tls_ca": other["ca"]})
        password.write_text("another")
        with pytest.raises(StoreRefused, match=r"stores\.shared\.user: .* WRONGPASS"):
            play([server], scene, **given)


def test_a_slot_that_moves_is_followed() -> None:
    """MOVED: what was saved is found at the other server, after one more question; ASK while it is under way."""
    servers = shared_valkey_cluster()
    ids = [one.ask("CLUSTER", "MYID").split(b"\r\n")[1] for one in servers]

    async def scene(store: ValkeyStore, prefix: str) -> None:
        sample = await make_sample(1, 200_000)
        name = f"{prefix}{sample.key.hex()}"
        slot = slot_of(name.encode())
        source = next(n for n, one in enumerate(servers) if slot < (5461, 10923, 16384)[n])
        target = (source + 1) % 3
        here, there = servers[source], servers[target]
        assert await saved(store, sample) == [Fate.DONE]
        assert there.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[source])[:3] == b"+OK"
        assert here.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[target])[:3] == b"+OK"
        assert await loaded(store, sample) == [Fate.DONE]
        moved = here.ask("MIGRATE", "127.0.0.1", str(there.port), name, "0", "5000")
        assert moved[:3] == b"+OK", moved
        assert await loaded(store, sample, sample) == [Fate.DONE] * 2  # by ASK
        assert await saved(store, sample, await make_sample(2, 100)) == [Fate.DONE] * 2
        for one in (there, here):
            one.ask("CLUSTER", "SETSLOT", str(slot), "NODE", ids[target])
        assert await loaded(store, sample, sample) == [Fate.DONE] * 2  # by MOVED
        assert await store.locate(keys_of([sample])) == b"\1"
        await store.delete(keys_of([sample]))
        for one in servers:
            one.ask("CLUSTER", "SETSLOT", str(slot), "NODE", ids[source])

    play(servers, scene)


def test_a_cluster_is_not_taken_for_one_server() -> None:
    """E4: its other servers would have to be asked, and the refusal says how."""
    servers = shared_valkey_cluster()

    async def scene(store: ValkeyStore, _: str) -> None:
        samples = [await make_sample(n, 100) for n in range(12)]
        reasons = {one.reason for one in await store.save([one.given() for one in samples])}
        assert any("write mode: cluster" in one for one in reasons), reasons

    play(servers[:1], scene)


def test_no_secret_is_ever_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """D1: not in logs, representations, reasons or errors."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    with valkey_server() as server:
        server.ask("CONFIG", "SET", "requirepass", PASSWORD)

        async def scene(store: ValkeyStore, _: str) -> None:
            sample = await make_sample(1, 200_000)
            shown.extend(map(repr, [store, vars(store), vars(store._servers)]))
            node = await store._servers.node(sample.key)
            shown.append(repr(vars(node)))
            server.kill()
            shown.extend(map(repr, await store.load([sample.wanted()])))
            with pytest.raises(StoreFault) as fault:
                await store.delete(keys_of([sample]))
            shown.extend([repr(fault.value), repr(fault.value.__context__)])

        play([server], scene, password_file=password)
    with valkey_server() as server:
        server.ask("CONFIG", "SET", "requirepass", "another")
        with pytest.raises(StoreRefused) as refused:
            play([server], scene, password_file=password)
        shown += [str(refused.value), repr(refused.value.__context__)]
    shown += [caplog.text, *capfd.readouterr()]
    assert "WRONGPASS" in "".join(shown)
    assert PASSWORD not in "".join(shown)
