"""Master keys: read from a file or the environment, told by nobody."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from support.transforms import KEYS_A, KEYS_B, write_keys

from penstock.actors.stores.store import StoreRefused
from penstock.actors.stores.transform_config import (
    AesGcmConfig,
    Fp8Config,
    ZstdConfig,
    check_transforms,
)
from penstock.actors.stores.transform_keys import parse_keys, read_keys
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError

WHERE = "stores.nvme.transforms.0"


def test_the_first_key_of_a_file_is_the_newest(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", f"{KEYS_B}\n{KEYS_A}")
    keys = read_keys(AesGcmConfig(keys_file=path), WHERE)
    assert keys.newest == 8
    tenants = [keys.tenant_key(number, tenant * 16) for number in (7, 8) for tenant in (b"a", b"b")]
    assert len(set(tenants)) == 4
    assert all(len(one) == 32 for one in tenants)
    assert repr(keys) == "KeyRing(newest=8, of 2)", "a key shows itself"


def test_a_tenants_key_is_derived_as_rfc_5869_says() -> None:
    """Computed here by HMAC alone: what is on a disk must open with the next release, too."""
    extracted = hmac.digest(b"penstock store keys 1", bytes.fromhex("1f" * 32), hashlib.sha256)
    info = b"aes-256-gcm of tenant " + b"t" * 16 + b"\x01"
    expected = hmac.digest(extracted, info, hashlib.sha256)
    assert parse_keys(KEYS_A, WHERE).tenant_key(7, b"t" * 16) == expected


def test_the_key_of_an_object_is_derived_from_its_tenants() -> None:
    """RFC 5869, the second half of it alone; another one for each object, whatever becomes of nonces."""
    keys = parse_keys(KEYS_A, WHERE)
    tenant_key = keys.tenant_key(7, b"t" * 16)
    info = b"aes-256-gcm of object " + b"k" * 32 + b"\x01"
    expected = hmac.digest(tenant_key, info, hashlib.sha256)
    assert keys.object_key(7, b"t" * 16, b"k" * 32) == expected
    assert keys.object_key(7, b"u" * 16, b"k" * 32) != expected


def test_the_environment_is_asked_only_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KV_KEYS", KEYS_A)
    assert read_keys(AesGcmConfig(keys_variable="KV_KEYS"), WHERE).newest == 7
    path = write_keys(tmp_path / "keys", KEYS_B)
    both = AesGcmConfig(keys_file=path, keys_variable="KV_KEYS")
    assert read_keys(both, WHERE).newest == 8
    with pytest.raises(StoreRefused, match="NOT_THERE is not set"):
        read_keys(AesGcmConfig(keys_variable="NOT_THERE"), WHERE)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", KEYS_A)
    path.chmod(0o640)
    with pytest.raises(StoreRefused, match="chmod 600"):
        read_keys(AesGcmConfig(keys_file=path), WHERE)
    with pytest.raises(StoreRefused, match="No such file"):
        read_keys(AesGcmConfig(keys_file=tmp_path / "other"), WHERE)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1 to 64 keys, not 0"),
        ("# only words", "1 to 64 keys, not 0"),
        (f"0 {'ab' * 32}", "line 1 is not"),
        (f"4294967296 {'ab' * 32}", "line 1 is not"),
        (f"1 {'ab' * 31}", "line 1 is not"),
        (f"\n{'ab' * 32}", "line 2 is not"),
        (f"1 {'ab' * 32}\n1 {'cd' * 32}", "line 2 gives key 1 for a second time"),
        ("\n".join(f"{n} {'ab' * 32}" for n in range(1, 66)), "not 65"),
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str, problem: str) -> None:
    """D4: no secret in an error."""
    with pytest.raises(StoreRefused, match=problem) as refused:
        parse_keys(text, WHERE)
    assert "abab" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "keys_file"),
        ({"keys_variable": "PENSTOCK_KEYS"}, "are read as configuration keys"),
        ({"keys_variable": "ab" * 32 + "="}, "no name of a variable"),
        ({"keys_files": "x"}, "keys_file"),
    ],
)
def test_keys_are_configured_or_refused(given: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        load_config(AesGcmConfig, overrides={"type": "aes_256_gcm", **given})
    assert "abab" not in str(refused.value)


def test_transforms_stand_in_the_order_that_works() -> None:
    seal, zstd, fp8 = AesGcmConfig(keys_variable="K"), ZstdConfig(), Fp8Config()
    for good in ((), (seal,), (zstd, seal), (fp8, seal), (fp8, zstd, seal)):
        check_transforms(good)
    for bad in ((seal, zstd), (zstd, fp8), (zstd, zstd), (seal, fp8)):
        with pytest.raises(ValueError, match="in the order fp8_e4m3, zstd, aes_256_gcm"):
            check_transforms(bad)
