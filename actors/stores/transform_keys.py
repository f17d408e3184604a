"""Master keys, and the keys of tenants that are derived from them. Neither ever shows itself."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from penstock.actors.stores.store import StoreRefused
from penstock.actors.stores.transform import Locked
from penstock.actors.stores.transform_config import AesGcmConfig
from penstock.runtime.config import read_variable

KEY_BYTES = 32
TENANT_KEYS_MAX = 4096  # kept; deriving one again costs some microseconds
KEYS_MAX = 64
FILE_BYTES_MAX = 64 * 1024

_SALT = b"penstock store keys 1"
_LINE = re.compile(r"\s*([1-9][0-9]{0,9})\s+([0-9a-fA-F]{64})\s*")


class KeyRing:
    """Master keys by number. The newest encrypts; all of them decrypt, so that keys can be rotated."""

    def __init__(self, keys: Mapping[int, bytes], *, newest: int) -> None:
        assert newest in keys
        assert all(len(key) == KEY_BYTES for key in keys.values())
        self.newest = newest
        self._keys = dict(keys)
        self.tenant_key = lru_cache(TENANT_KEYS_MAX)(self._tenant_key)

    def __repr__(self) -> str:
        return f"KeyRing(newest={self.newest}, of {len(self._keys)})"

    def object_key(self, number: int, tenant: bytes, key: bytes) -> bytes:
        """The key of one object, from that of its tenant (HKDF-Expand). Raises Locked. Any thread."""
        info = b"aes-256-gcm of object " + key
        derive = HKDFExpand(algorithm=hashes.SHA256(), length=KEY_BYTES, info=info)
        return derive.derive(self.tenant_key(number, tenant))

    def _tenant_key(self, number: int, tenant: bytes) -> bytes:
        """The key of a tenant under a master key, by HKDF-SHA256 (RFC 5869). Raises Locked. Any thread."""
        master = self._keys.get(number)
        if master is None:
            raise Locked(f"it was encrypted with master key {number}, which is not given")
        derive = HKDF(
            algorithm=hashes.SHA256(),
            length=KEY_BYTES,
            salt=_SALT,
            info=b"aes-256-gcm of tenant " + tenant,
        )
        return derive.derive(master)


def read_keys(config: AesGcmConfig, path: str) -> KeyRing:
    """The keys that the configuration at `path` names. Raises StoreRefused, which never repeats what it read."""
    if config.keys_file is not None:
        return parse_keys(_read_file(config.keys_file, f"{path}.keys_file"), f"{path}.keys_file")
    text = read_variable(config.keys_variable)
    if text is None:
        problem = f"{config.keys_variable} is not set in the environment"
        raise StoreRefused(f"{path}.keys_variable", problem)
    return parse_keys(text, f"{path}.keys_variable")


def parse_keys(text: str, path: str) -> KeyRing:
    """One key a line; empty lines, and what begins with '#', do not count. Raises StoreRefused."""
    keys: dict[int, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        given = _LINE.fullmatch(line)
        if given is None or int(given[1]) >= 2**32:
            problem = "is not a key's number, 1 to 4294967295, and 64 hexadecimal digits"
            raise StoreRefused(path, f"line {number} {problem}")
        if int(given[1]) in keys:
            raise StoreRefused(path, f"line {number} gives key {given[1]} for a second time")
        keys[int(given[1])] = bytes.fromhex(given[2])
    if not 0 < len(keys) <= KEYS_MAX:
        raise StoreRefused(path, f"there must be 1 to {KEYS_MAX} keys, not {len(keys)}")
    return KeyRing(keys, newest=next(iter(keys)))


def _read_file(file: Path, path: str) -> str:
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(file.stat().st_mode)
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise StoreRefused(path, f"{file}: {error.strerror}") from None
    if mode & 0o077:
        problem = f"{file} is open to others than its owner: chmod 600 it"
        raise StoreRefused(path, problem)
    if len(content) > FILE_BYTES_MAX or not content.isascii():
        raise StoreRefused(path, f"{file} is no file of keys")
    return content.decode("ascii")
