"""Configuration is strict: nothing given is ignored, and every refusal names the key."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from penstock.runtime.config import Config, load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.units import GIB, ByteSize, Seconds


class L1(Config):
    bytes_max: ByteSize = ByteSize(GIB)
    low_water: float = 0.8
    high_water: float = 0.9

    def __post_init__(self) -> None:
        if self.low_water > self.high_water:
            raise ValueError("low_water must not be above high_water")


class Store(Config):
    path: Path
    workers: int = 4


class Kind(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Disk(Config, tag_field="type", tag="disk"):
    name: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", description="letters a to z")] = "d"
    bytes_max: ByteSize = ByteSize(1)


class Cloud(Config, tag_field="type", tag="cloud"):
    bucket: str


class Node(Config):
    kind: Kind = Kind.SMALL
    media: tuple[Disk | Cloud, ...] = ()
    name: str = "node"
    l1: L1 = L1()
    drain: Seconds = Seconds(5)
    stores: dict[str, Store] = {}
    peers: list[str] = []
    paths: str | list[str] = ""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str) -> Path:
        path = tmp_path / "node.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_need_nothing() -> None:
    assert load_config(Node) == Node()


def test_file_environment_and_overrides_come_together(write) -> None:  # type: ignore[no-untyped-def]
    path = write("name: a\nl1:\n  bytes_max: 4GiB\nstores:\n  disk: {path: /data}\n")
    env = {"PENSTOCK_L1__LOW_WATER": "0.5", "PENSTOCK_PEERS": "[b, c]", "HOME": "/root"}
    config = load_config(Node, path, env=env, overrides={"drain": "250ms", "name": "z"})
    assert config == Node(
        name="z",
        l1=L1(bytes_max=ByteSize(4 * GIB), low_water=0.5),
        drain=Seconds(0.25),
        stores={"disk": Store(path=Path("/data"))},
        peers=["b", "c"],
    )


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("l1: {bytes: 4GiB}", "l1.bytes", "did you mean l1.bytes_max?"),
        ("nmae: x", "nmae", "did you mean name?"),
        ("zzz: {}", "zzz", "there are kind, media, name, l1"),
        ("kind: huge", "kind", "'huge' is not one of small, large"),
        ("media: [{}]", "media.0", "missing required field `type`: one of disk, cloud"),
        ("media: [{type: disc}]", "media.0.type", "'disc' is not one of disk, cloud"),
        ("media: [{type: disk, byte_max: 1}]", "media.0.byte_max", "mean media.0.bytes_max?"),
        ("media: [{type: disk, name: A 1}]", "media.0.name", "must be letters a to z"),
        ("media: [{type: disk}, {type: disk, bytes_max: 4G}]", "media.1.bytes_max", "4GiB.*in .*y"),
        ("l1: {bytes_max: 4G}", "l1.bytes_max", "a size such as 4GiB"),
        ("l1: {bytes_max: true}", "l1.bytes_max", "no size"),
        ("l1: {low_water: high}", "l1.low_water", "expected `float`, got `str`"),
        ("l1: {low_water: 0.95}", "l1", "low_water must not be above"),
        ("l1: 3", "l1", "expected keys and values, got `int`"),
        ("drain: -1", "drain", "finite, 0 or more"),
        ("stores: {a: {path: /a}, b: {path: 3}}", "stores.b.path", "no path"),
        ("stores: {a: {path: /a}, b: {path: /b, wrokers: 1}}", "stores.b.wrokers", "no such key"),
        ("stores: {a: {}}", "stores.a", "missing required field `path`"),
        ("peers: 3", "peers", "expected a list, got `int`"),
        ("paths: 3", "paths", "expected `str` or a list, got `int`"),
        ("peers: [a, 3]", "peers.1", "expected `str`, got `int`"),
        ("name: a\nl1: {}\nname: b", "name", "given twice in .*node.yaml, lines 1 and 3"),
        ("l1:\n  low_water: 0.1\n  low_water: 0.1", "l1.low_water", "given twice"),
        ("l1: {3.5: 4}", "l1", "a key must be plain text"),
        ("l1: {3: 4, '3': 5}", "l1.3", "given twice"),
        ("[1, 2]", "", "must hold keys and values, not a list"),
        ("a: [", "", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_the_path_of_the_key(  # type: ignore[no-untyped-def]
    write, text: str, path: str, words: str
) -> None:
    """E4: an unknown or conflicting key, or a wrong value, is an error that names the path.

    Seen to fail without `forbid_unknown_fields` (unknown keys ignored) and with a plain
    `yaml.safe_load` (the last of two equal keys wins).
    """
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(Node, write(text))
    assert caught.value.path == path
    assert str(caught.value).startswith(path)


def test_an_error_says_where_the_value_came_from(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=r"in .*node\.yaml"):
        load_config(Node, write("drain: soon"))
    with pytest.raises(ConfigError, match="in PENSTOCK_DRAIN"):
        load_config(Node, env={"PENSTOCK_DRAIN": "soon"})
    with pytest.raises(ConfigError, match="in the arguments"):
        load_config(Node, overrides={"drain": "soon"})
    with pytest.raises(ConfigError, match="in the command line"):
        load_config(Node, overrides={"drain": "soon"}, overridden_by="the command line")


def test_a_file_and_an_environment_that_disagree_are_an_error(write) -> None:  # type: ignore[no-untyped-def]
    """E4: neither silently wins."""
    path = write("l1: {low_water: 0.5}")
    assert load_config(Node, path, env={"PENSTOCK_L1__LOW_WATER": "0.5"}).l1.low_water == 0.5
    with pytest.raises(
        ConfigError, match=r"0.4.*but .*node.yaml says l1.low_water = 0.5"
    ) as caught:
        load_config(Node, path, env={"PENSTOCK_L1__LOW_WATER": "0.4"})
    assert caught.value.path == "l1.low_water"
    with pytest.raises(ConfigError, match="give it in one place"):
        load_config(Node, path, env={"PENSTOCK_L1": "3"})


def test_an_override_wins_over_both(write) -> None:  # type: ignore[no-untyped-def]
    path = write("l1: {low_water: 0.5}")
    assert load_config(Node, path, overrides={"l1.low_water": 0.1}).l1.low_water == 0.1
    assert load_config(Node, path, overrides={"l1": {"low_water": 0.2}}).l1.low_water == 0.2


def test_an_empty_section_is_a_section(write) -> None:  # type: ignore[no-untyped-def]
    path = write("l1: {}\n")
    assert load_config(Node, path, env={"PENSTOCK_L1__LOW_WATER": "0.1"}).l1.low_water == 0.1
    assert load_config(Node, write("")) == Node()


def test_an_unknown_variable_with_our_prefix_is_an_error() -> None:
    with pytest.raises(ConfigError, match="PENSTOCK_L1__BYTE_MAX") as caught:
        load_config(Node, env={"PENSTOCK_L1__BYTE_MAX": "4GiB"})
    assert caught.value.path == "l1.byte_max"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(Node, tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(Node, tmp_path / "latin.yaml")
