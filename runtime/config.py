"""Configuration: a YAML file, the environment and overrides, read strictly into frozen structs.

    class NodeConfig(Config):
        l1: L1Config = L1Config()
        drain: Seconds = Seconds(5)

    overrides = {"l1.bytes": "4GiB"}
    config = load_config(NodeConfig, Path("node.yaml"), env=os.environ, overrides=overrides)

A key is written `l1.bytes` in overrides and messages, nested in YAML, `PENSTOCK_L1__BYTES` in the
environment. Nothing is ever ignored: an unknown key, a key given twice, or a file and an
environment that disagree are a `ConfigError` which names the path of the key and where the value
came from. Overrides, being typed by hand just now, win over both. This module alone reads files and
the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import msgspec
import yaml

from penstock.runtime.config_problems import explained
from penstock.runtime.errors import ConfigError

C = TypeVar("C", bound="Config")

ENV_PREFIX = "PENSTOCK_"
ENV_SEPARATOR = "__"  # between the parts of a key, since a part may contain an underscore

_PLAIN_NUMBER = re.compile("0|[1-9][0-9]*")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all configuration records: frozen, by keyword, unknown keys refused.

    Rules that span several fields go into `__post_init__`, which raises ValueError.
    """


@runtime_checkable
class FromConfig(Protocol):
    """A type that reads itself from a plain value, such as `ByteSize`."""

    @classmethod
    def from_config(cls, value: object) -> Self:
        """Raises ValueError or TypeError, which say what is wrong and how to write it."""


def load_config(
    kind: type[C],
    path: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    overridden_by: str = "the arguments",
) -> C:
    """Read a `kind` from the file at `path`, from `env`, and from `overrides` (dotted keys).

    `overridden_by`: where those come from, for messages. Raises ConfigError; all that is not given has the default of
    its field.
    """
    given = _Given()
    if path is not None:
        for key, value in _leaves(_read_yaml(path)):
            given.add(key, value, source=str(path))
    for name, text in sorted((env or {}).items()):
        if name.startswith(ENV_PREFIX):
            key = tuple(name.removeprefix(ENV_PREFIX).lower().split(ENV_SEPARATOR))
            given.add(key, read_scalar(name, text), source=name)
    for dotted, value in (overrides or {}).items():
        given.override(tuple(dotted.split(".")), value, source=overridden_by)
    return given.convert(kind)


def read_record(kind: type[C], values: Mapping[str, object], *, path: str) -> C:
    """Read a `kind` from plain values, which stand at `path` of a larger document.

    Raises ConfigError, as `load_config` does.
    """
    given = _Given()
    for key, value in _leaves(values):
        given.add(key, value, source=path)
    try:
        return given.convert(kind)
    except ConfigError as refusal:
        where = ".".join(part for part in (path, refusal.path) if part)
        raise ConfigError(where, refusal.problem) from None


def environment_value(name: str) -> str | None:
    """What the environment calls `name`: for secrets, whose name alone is configured."""
    return os.environ.get(name)


Key = tuple[str, ...]


class _Given:
    """What was given, leaf by leaf, with its source."""

    def __init__(self) -> None:
        self._values: dict[Key, tuple[object, str]] = {}

    def add(self, key: Key, value: object, *, source: str) -> None:
        """Raises ConfigError if another source says something else about this key."""
        for known, (other, other_source) in self._values.items():
            if _disagree(known, other, key, value):
                raise ConfigError(
                    ".".join(key),
                    f"{source} says {value!r}, but {other_source} says"
                    f" {'.'.join(known)} = {other!r}: give it in one place",
                )
        self._values[key] = value, source

    def override(self, key: Key, value: object, *, source: str) -> None:
        for known in [known for known in self._values if known[: len(key)] == key]:
            del self._values[known]
        self._values[key] = value, source

    def convert(self, kind: type[C]) -> C:
        tree = self._tree()
        try:
            return msgspec.convert(tree, kind, dec_hook=_decode)
        except msgspec.ValidationError as error:
            key, problem = _locate(kind, tree, str(error))
            raise ConfigError(".".join(key), f"{problem}{self._origin(key)}") from None

    def _tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key, (value, source) in sorted(self._values.items(), key=lambda item: len(item[0])):
            branch = tree
            for part in key[:-1]:
                branch = branch.setdefault(part, {})
                if not isinstance(branch, dict):
                    raise ConfigError(".".join(key), f"{part} is a plain value; see {source}")
            branch[key[-1]] = value
        return tree

    def _origin(self, key: Key) -> str:
        sources = {
            source: None
            for known, (_, source) in self._values.items()
            if known[: len(key)] == key[: len(known)]  # of a list all has one source
        }
        return f" (in {', '.join(sources)})" if sources else ""


def _disagree(key: Key, value: object, other_key: Key, other: object) -> bool:
    """Whether two sources cannot both be right: one key with two values, or a value with parts."""
    if len(key) > len(other_key):
        return _disagree(other_key, other, key, value)
    if other_key[: len(key)] != key:
        return False
    return value != other if len(key) == len(other_key) else value != {}


def _decode(kind: type[Any], value: object) -> object:
    """The hook of msgspec for types it does not know."""
    if issubclass(kind, Path):
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no path")
        return Path(value)
    if not issubclass(kind, FromConfig):
        raise NotImplementedError(f"{kind.__qualname__} needs a classmethod from_config")
    return kind.from_config(value)


def _locate(kind: type[Config], tree: dict[str, Any], message: str) -> tuple[Key, str]:
    """The key a message of msgspec is about, and what is wrong with it in our words."""
    problem, _, place = message.partition(" - at `$")
    parts = re.findall(r"\[[^\]]*\]|[^.\[\]`]+", place.rstrip("`"))
    key: list[str] = []
    for part in parts:
        key.append(_culprit(kind, tree, key, message) if part == "[...]" else part.strip("[]"))
    return explained(kind, tree, tuple(key), problem)


def _culprit(kind: type[Config], tree: dict[str, Any], key: list[str], message: str) -> str:
    """Which entry of a mapping is wrong; msgspec does not say, so each is tried without the others."""
    mapping = _at(tree, key)
    for name, value in mapping.items():
        alone = _replaced(tree, key, {name: value})
        try:
            msgspec.convert(alone, kind, dec_hook=_decode)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return str(name)
    return "..."


def _at(tree: Any, key: list[str]) -> Any:
    for part in key:
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def _replaced(tree: Any, key: list[str], value: object) -> Any:
    if not key:
        return value
    if isinstance(tree, list):
        position = int(key[0])
        changed = _replaced(tree[position], key[1:], value)
        return [*tree[:position], changed, *tree[position + 1 :]]
    return {**tree, key[0]: _replaced(tree[key[0]], key[1:], value)}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _check_keys(node, (), str(path))
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError("", f"{path} is not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError("", f"{path} must hold keys and values, not a {type(document).__name__}")
    named: dict[str, Any] = _with_text_keys(document)
    return named


def _check_keys(node: yaml.Node, key: Key, source: str) -> None:
    """Refuse what YAML lets pass: a key given twice (the last one would win), a key that is neither
    text nor a plain number, which counts as its text.
    """
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _check_keys(item, (*key, str(position)), source)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode) or not (
            name.tag == "tag:yaml.org,2002:str" or _PLAIN_NUMBER.fullmatch(name.value)
        ):
            raise ConfigError(".".join(key), f"{source}, line {line}: a key must be plain text")
        path = ".".join([*key, name.value])
        if name.value in lines:
            raise ConfigError(
                path, f"given twice in {source}, lines {lines[name.value]} and {line}"
            )
        lines[name.value] = line
        _check_keys(value, (*key, name.value), source)


def _with_text_keys(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_with_text_keys(item) for item in tree]
    if isinstance(tree, dict):
        return {str(name): _with_text_keys(value) for name, value in tree.items()}
    return tree


def read_variable(name: str) -> str | None:
    """A variable of the environment that the configuration names, as it names files; None: it is not set."""
    return os.environ.get(name)


def read_scalar(name: str, text: str) -> object:
    """The value of `name`, given as text, read as YAML reads it: numbers, true, lists, text.

    Raises ConfigError.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("", f"{name} is not a YAML value: {error}") from error


def _leaves(tree: Mapping[str, Any], key: Key = ()) -> Iterator[tuple[Key, object]]:
    """Every value that is not a mapping with entries, with its key."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*key, name))
        else:
            yield (*key, name), value
