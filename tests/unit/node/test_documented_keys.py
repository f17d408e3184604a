"""Every key that can be configured is written down: the node's in docs/OPERATIONS.md, a store's in docs/STORES.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from penstock.actors.config import NodeConfig
from penstock.actors.router.config import RouterConfig
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.opening import AnyStoreConfig
from penstock.runtime.config import Config

DOCS = Path(__file__).resolve().parents[3] / "docs"
OPERATIONS = (DOCS / "OPERATIONS.md").read_text()
STORES = (DOCS / "STORES.md").read_text()
OPTIONAL = {"cluster", "pd"}  # records that may be left out, and are written as others are
STORE_KINDS: tuple[type[StoreConfig], ...] = get_args(AnyStoreConfig)


def records_in(annotation: Any) -> Iterator[type[Config]]:
    """The configuration records that a field of this type holds, one or many of them."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for part in get_args(annotation):
        yield from records_in(part)


def keys_of(kind: type[Config], prefix: str = "") -> Iterator[str]:
    """As they are written: dotted; of records in a list, by their own name."""
    for field in msgspec.structs.fields(kind):
        if field.name == "stores":
            yield field.name
            continue
        records = list(records_in(field.type))
        if records == [field.type] or field.name in OPTIONAL:
            yield from keys_of(records[0], f"{prefix}{field.name}.")
            continue
        yield prefix + field.name
        for record in records:
            yield from keys_of(record)


def is_written(key: str, text: str) -> bool:
    """Between backticks, alone or within an example."""
    name = re.compile(rf"(?<![\w.]){re.escape(key)}\b")
    return any(name.search(span) for span in re.findall(r"`([^`\n]+)`", text))


def test_the_walk_comes_everywhere() -> None:
    keys = set(keys_of(NodeConfig))
    assert {"chunk_tokens", "l1.bytes", "gateway.listen", "token_file", "salt", "stores"} <= keys
    assert {"cluster.node_id", "peers", "endpoints"} <= keys
    assert {"breaker.open_for", "level", "flip"} <= {*keys_of(StoreConfig)}
    assert not is_written("gateway.lease", "`gateway.lease_max`, gateway.lease, `l1.gateway.lease`")
    assert is_written("salt", "`{salt: a, bytes: 0}`")


@pytest.mark.parametrize("key", [*dict.fromkeys(keys_of(NodeConfig))])
def test_a_key_of_the_node_is_in_its_operators_page(key: str) -> None:
    """Seen to fail with twelve keys of `prefetch` missing."""
    assert is_written(key, OPERATIONS), f"docs/OPERATIONS.md does not name `{key}`"


@pytest.mark.parametrize("kind", STORE_KINDS, ids=lambda kind: kind.__name__)
def test_a_key_of_a_store_is_in_its_section_or_in_that_of_every_store(
    kind: type[StoreConfig],
) -> None:
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", STORES, re.MULTILINE))
    own = sections[str(kind.__struct_config__.tag)]
    common = {*keys_of(StoreConfig)}  # quotas are written as those of L1 are
    missing = [
        key
        for key in keys_of(kind)
        if not is_written(key, STORES + OPERATIONS if key in common else own)
    ]
    assert not missing, f"docs/STORES.md does not name {missing}"


def test_every_key_of_the_router_is_written_down() -> None:
    text = (DOCS / "ROUTER.md").read_text()
    assert not [key for key in keys_of(RouterConfig) if not is_written(key, text)]
