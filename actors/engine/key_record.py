"""What a session asked or stored, written down for `penstock doctor keys`.

A record holds the prompt's tokens and its tenant's salt in clear: keep it as you keep the prompts themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from penstock.actors.core.namespace import Namespace
from penstock.actors.core.plain import to_plain
from penstock.actors.engine.keyspace import Prompt


def key_record(namespace: Namespace, prompt: Prompt) -> dict[str, object]:
    """`prompt` and the keys that name it, as JSON's own values. `namespace` is with its adapter and salt.

    `tokens` and `extras` are left out of a prompt that is named by keys.
    """
    record: dict[str, object] = {
        "namespace": to_plain(namespace),
        "keys": [prompt.key(chunk).hex() for chunk in range(prompt.chunks)],
    }
    if prompt.tokens or not prompt.keys:
        record["tokens"] = memoryview(prompt.tokens).cast("I").tolist()
        extras = prompt.extras or {}
        record["extras"] = {str(chunk): extra.hex() for chunk, extra in extras.items() if extra}
    return record


def write_key_record(path: Path, record: Mapping[str, object]) -> None:
    """Put `record` at `path`, for its owner's eyes only; a reader sees the old one or this, whole. Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            json.dump(record, file)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
