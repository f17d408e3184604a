"""A prompt that is named on the command line: by a key record, or by keys alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from penstock.actors.api.types import KEY_BYTES
from penstock.actors.cli.doctor import read_chain
from penstock.actors.core.namespace import DIGEST_BYTES
from penstock.runtime.errors import CallerError, ConfigError

FILE_BYTES_MAX = 64 << 20
_HEXADECIMAL = re.compile(r"([0-9a-fA-F]{2})*")


class UnreadablePrompt(CallerError):
    """Yours: the file names no prompt."""


@dataclass(frozen=True, slots=True)
class PromptKeys:
    """`namespace`: the digest of that which engines attach with, without an adapter and a salt."""

    namespace: bytes
    keys: bytes  # packed
    salt: bytes = field(default=b"", repr=False)  # of the tenant, where the file says it

    @property
    def chunks(self) -> int:
        return len(self.keys) // KEY_BYTES


def read_prompt(path: Path, *, namespace: str) -> PromptKeys:
    """From a record, which says its namespace, or from keys in hexadecimal with `namespace`, the digest of theirs.

    Raises UnreadablePrompt, UnreadableRecord, ConfigError."""
    raw = _content(path)
    if raw.lstrip().startswith("{"):
        if namespace:
            raise ConfigError("--namespace", "a record says it itself: leave it out")
        chain = read_chain(path, name=str(path))
        own = replace(chain.namespace, adapter=b"", salt=b"")
        return PromptKeys(own.digest(), b"".join(chain.keys), chain.namespace.salt)
    digest = _bytes(namespace)
    if digest is None or len(digest) != DIGEST_BYTES:
        raise ConfigError("--namespace", f"give {2 * DIGEST_BYTES} hexadecimal digits, with keys")
    keys = _bytes("".join(raw.split()))
    if keys is None or not keys or len(keys) % KEY_BYTES:
        digits = 2 * KEY_BYTES
        raise UnreadablePrompt(
            f"{path}: no record, and no keys of {digits} hexadecimal digits each"
        )
    return PromptKeys(digest, keys)


def _content(path: Path) -> str:
    """Raises UnreadablePrompt."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise UnreadablePrompt(f"{path}: more than {FILE_BYTES_MAX} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise UnreadablePrompt(f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadablePrompt(f"{path}: is no text") from None


def _bytes(text: str) -> bytes | None:
    return bytes.fromhex(text) if _HEXADECIMAL.fullmatch(text) else None
