"""How valkey stores are configured, where passwords come from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.actors.stores.store import StoreRefused
from penstock.actors.stores.valkey_config import Mode, TlsMode, ValkeyConfig
from penstock.actors.stores.valkey_login import read_login
from penstock.actors.stores.valkey_record import META_BYTES, Meta
from penstock.actors.stores.valkey_servers import slot_of
from penstock.runtime.units import GIB, KIB, ByteSize, Seconds


def configured(**given: Any) -> ValkeyConfig:
    return ValkeyConfig(**{"name": "shared", "addresses": ("127.0.0.1:6379",)} | given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"addresses": ()}, "must name a server"),
        ({"addresses": ("valkey",)}, "is no address"),
        ({"addresses": ("127.0.0.1:1", "127.0.0.1:2")}, "write mode: cluster"),
        ({"addresses": ("valkey:6379",)}, "valkey:6379 is reached in the clear"),
        ({"capacity": ByteSize(GIB)}, "set maxmemory of the server"),
        ({"part_bytes": ByteSize(KIB)}, "1 to 512 MiB"),
        ({"ttl": Seconds(0.5)}, "ttl must be"),
        ({"tls_certificate": Path("/x")}, "given together"),
        ({"tls": TlsMode.OFF, "tls_ca": Path("/x")}, "tls is off"),
        ({"mode": Mode.CLUSTER, "database": 1}, "only number 0"),
        ({"addresses": ("unix:///run/v.sock",), "tls_ca": Path("/x")}, "which has no TLS"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        configured(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"addresses": ("unix:///run/valkey.sock",)},
        {"addresses": ("[::1]:6379",)},
        {"addresses": ("valkey:6379",), "tls": TlsMode.ON},
        {"addresses": ("valkey:6379",), "tls_ca": Path("/ca")},
        {"addresses": ("valkey:6379",), "allow_clear": True},
        {"addresses": ("a:1", "b:2"), "mode": Mode.CLUSTER, "tls": TlsMode.ON},
        {"ttl": Seconds(0)},
    ],
)
def test_what_can_be_is_taken(given: dict[str, Any]) -> None:
    assert configured(**given).parsed()


def test_a_password_comes_from_its_file_then_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configuration wins over the environment; D1: neither is ever shown."""
    path = tmp_path / "password"
    path.write_text("of the file\nand more\n")
    monkeypatch.setenv("VALKEY_PASSWORD", "of the environment")
    monkeypatch.setenv("OTHER", "of another")
    told = [
        read_login(configured(password_file=path)),
        read_login(configured()),
        read_login(configured(password_env="OTHER")),
        read_login(configured(password_env="UNSET")),
    ]
    passwords = [one.password.reveal() if one.password else None for one in told]
    assert passwords == ["of the file", "of the environment", "of another", None]
    assert not [one for one in passwords if one and one in repr(told)]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"password_file": Path("/nowhere")}, "password_file: cannot be read"),
        ({"password_file": Path("/dev/null")}, "first line is empty"),
        ({"user": "app", "password_env": "UNSET"}, "user: has no password"),
        ({"tls_ca": Path("/nowhere")}, "cannot be used"),
    ],
)
def test_files_that_are_not_as_they_should_be_are_refused(
    given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StoreRefused, match=rf"stores\.shared\.{problem}|{problem}"):
        read_login(configured(**given))


def test_slots_are_those_of_the_specification() -> None:
    """The example of the cluster specification: CRC16("123456789") is 0x31C3."""
    assert slot_of(b"123456789") == 0x31C3


def test_a_meta_is_read_as_it_was_written_and_nothing_else_is() -> None:
    meta = Meta(4096, 20_000_000, 8_000_000, bytes(range(16)))
    data = bytes(meta)
    assert len(data) == META_BYTES
    assert Meta.read(data) == meta
    assert [*meta.parts] == [0, 8_000_000, 16_000_000]
    assert meta.part_names(b"k")[2] == b"k:000102030405060708090a0b0c0d0e0f:2"
    for at in (0, 8, 10):  # magic, version, flags
        changed = bytearray(data)
        changed[at] ^= 0x80
        assert Meta.read(changed) is None
    assert Meta.read(data[:-1]) is None
    assert Meta.read(bytes(Meta(4096, 1 << 60, 1, bytes(16)))) is None, "parts without end"
