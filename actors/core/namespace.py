"""The namespace: everything that must be equal for KV to be interchangeable.

Its digest begins every chain of keys (see `penstock.actors.keys`), so that a hit under another
dtype, geometry, stage, adapter, weights or tenant is impossible by construction and not by care.
How an engine pages its blocks is not part of it: the copy brings every layout to one order.

A record that exists is a valid one: what would let two different models share keys is refused where
it is built, with the path of the field.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from penstock.actors.api.errors import InvalidField
from penstock.actors.core import canonical

KEY_FORMAT_VERSION = 1
"""Raised whenever the meaning of a key changes: old objects are then missed, and never wrong."""

CANONICAL_ORDER = "canonical"
"""The byte order [layer][kv][token][head][dim], which every declared layout is copied to."""

DIGEST_BYTES = 32
DTYPE_BYTES: Mapping[str, int] = {
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "uint8": 1,
}
_SCALED_DTYPES = frozenset({"float8_e4m3fn", "float8_e5m2"})

GROUPS_MAX = 64
SHARDS_MAX = 1024  # of a group; a Hello has no more over all its groups
LAYERS_MAX = 2048  # as SHARDS_MAX
COUNT_MAX = 65536  # heads, head elements, components, runs, tokens of a window or a block
SALT_BYTES_MAX = 256
ADAPTER_BYTES_MAX = 64
NAME_CHARS_MAX = 512

# A commit names content, wherever it is hosted; so does a digest that says how it was made.
_COMMIT = re.compile(r"([^\s@]+@)?([0-9a-f]{40}|[0-9a-f]{64})")
_FINGERPRINT = re.compile(r"[a-z][a-z0-9_-]*:[0-9a-f]{64}")


class UnknownWeights(InvalidField):
    """Yours: the identity may name other weights tomorrow, so KV kept under it could lie."""


class ScalesAtRunTime(InvalidField):
    """Yours: the k/v scales are not known beforehand: equal bytes would not mean equal KV."""


class Attention(Enum):
    """How the layers of a group attend; it decides what a hit needs of the group."""

    FULL = "every chunk of the prefix"
    WINDOW = "the last window_tokens of the prefix"
    MLA = "every chunk of the prefix; objects shared by the tensor-parallel ranks of a stage"
    RECURRENT = "the state at the end of the prefix"


@dataclass(frozen=True, slots=True)
class GroupShard:
    """The part of a group that one worker, or one set of workers with equal KV, holds."""

    token_bytes: int  # of one token in the object; 0 for recurrent state
    state_bytes: int  # of the object where it does not grow with tokens; 0 unless recurrent
    runs: int  # (layer, component) runs in the object

    def object_bytes(self, chunk_tokens: int) -> int:
        """Exact size of this shard's object of one chunk."""
        return self.state_bytes or self.token_bytes * chunk_tokens


@dataclass(frozen=True, slots=True)
class Group:
    """Layers with the same geometry, dtype and attention kind."""

    layer_names: tuple[str, ...]  # model-wide names over all stages, in order
    attention: Attention
    window_tokens: int  # 0 unless attention is WINDOW
    kv_heads: int  # of the whole model; 1 for MLA
    head_size: int  # elements; bytes of one layer's state for RECURRENT
    components: int  # 2 for K and V, 1 where there is one
    dtype: str  # a key of DTYPE_BYTES
    shards: tuple[GroupShard, ...]


@dataclass(frozen=True, slots=True)
class ShardSizes:
    """How the model is cut. A shard's place in it is in the object key and not here."""

    tp: int = 1
    pp: int = 1
    dcp: int = 1
    pcp: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """Two engines may use each other's KV if and only if their namespaces are equal.

    Raises UnknownWeights, ScalesAtRunTime, InvalidField.
    """

    weights: str  # a hub commit ("org/name@COMMIT" or "COMMIT"), or "KIND:SHA256" of the weights
    generation: int = 0  # raised by each weight update of a running engine
    model_config_digest: bytes  # see `config_digest`
    kv_scales_digest: bytes = b""  # see `scales_digest`; empty: the dtype has none
    byte_order: str = CANONICAL_ORDER  # or the name of an opaque order
    transform: str = ""  # a lossy transform of the stored bytes; empty: none
    chunk_tokens: int
    groups: tuple[Group, ...]
    shard_sizes: ShardSizes = ShardSizes()
    # The last two differ from prompt to prompt.
    adapter: bytes = b""  # digest of the LoRA adapter's content; empty: none
    salt: bytes = b""  # the tenant's; empty: none

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        _check_count("generation", self.generation, 0, canonical.INTEGER_MAX)
        _check_digest("model_config_digest", self.model_config_digest)
        _check_name("byte_order", self.byte_order)
        if self.transform:
            _check_name("transform", self.transform)
        _check_count("chunk_tokens", self.chunk_tokens, 1, 2**31 - 1)
        _check_count("len(groups)", len(self.groups), 1, GROUPS_MAX)
        seen: set[Group] = set()
        for index, group in enumerate(self.groups):
            _check_group(f"groups[{index}]", group)
            seen.add(group)
            if len(seen) <= index:
                raise InvalidField(f"groups[{index}]", "the same group is there twice")
        self._check_scales()
        for name in ("tp", "pp", "dcp", "pcp"):
            _check_count(f"shard_sizes.{name}", getattr(self.shard_sizes, name), 1, SHARDS_MAX)
        _check_count("len(adapter)", len(self.adapter), 0, ADAPTER_BYTES_MAX)
        _check_count("len(salt)", len(self.salt), 0, SALT_BYTES_MAX)

    def _check_scales(self) -> None:
        if self.kv_scales_digest:
            _check_digest("kv_scales_digest", self.kv_scales_digest)
            return
        for index, group in enumerate(self.groups):
            if group.dtype in _SCALED_DTYPES:
                raise ScalesAtRunTime(
                    "kv_scales_digest",
                    f"groups[{index}] is {group.dtype}: give the digest of its k and v scales, of"
                    " 1.0 where there are none; those computed at run time cannot be shared",
                )

    def encode(self) -> bytes:
        """The canonical bytes: different for any two namespaces that differ."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """What `encode` joins, one or more for each group: there may be many."""
        return canonical.pieces(("penstock namespace", KEY_FORMAT_VERSION, self), depth=3)

    def digest(self) -> bytes:
        """`key_0` of every chain in this namespace: 32 bytes."""
        return hashlib.sha256(self.encode()).digest()


class RootDigests:
    """The digests of one namespace under any adapter and salt, without encoding the rest of it again.

    They are the last two fields, and so the end of the encoding.
    """

    def __init__(self, namespace: Namespace, encoded: bytes = b"") -> None:
        """`encoded`: its encoding, where that was made already."""
        encoded = encoded or namespace.encode()
        end = _encode_end(namespace.adapter, namespace.salt)
        assert encoded.endswith(end), "adapter and salt are the last fields of a namespace"
        self._begun = hashlib.sha256(encoded[: -len(end)])

    def digest(self, adapter: bytes, salt: bytes) -> bytes:
        """As `replace(namespace, adapter=adapter, salt=salt).digest()`; their lengths are the caller's to check."""
        begun = self._begun.copy()
        begun.update(_encode_end(adapter, salt))
        return begun.digest()


def _encode_end(adapter: bytes, salt: bytes) -> bytes:
    return b"".join(
        canonical.encode_name(name) + canonical.encode(value)
        for name, value in (("adapter", adapter), ("salt", salt))
    )


def first_difference(ours: Namespace, theirs: Namespace) -> str | None:
    """The path of the first part that differs, such as "groups[0].dtype"; None when they are equal."""
    difference = canonical.first_difference(ours, theirs)
    return None if difference is None else difference.path


def describe_difference(ours: Namespace, theirs: Namespace) -> str | None:
    """As `first_difference`, with both values; but for the salt, which is a tenant's secret."""
    difference = canonical.first_difference(ours, theirs)
    if difference is None:
        return None
    if difference.path == "salt":
        return "salt: they are two tenants'"
    mine, other = _shown(difference.ours), _shown(difference.theirs)
    return f"{difference.path}: {mine} against {other}"


def chunk_tokens_for(configured: int, block_tokens: Iterable[int]) -> int:
    """Tokens of a chunk: the smallest multiple of every group's block size that is >= `configured`.

    Raises InvalidField when one of them is not 1 to 65536, when there is no group, or when their
    least common multiple is out of all proportion (more than 16 times the bound).
    """
    _check_count("chunk_tokens", configured, 1, COUNT_MAX)
    blocks = tuple(block_tokens)
    _check_count("len(groups)", len(blocks), 1, GROUPS_MAX)
    for index, block in enumerate(blocks):
        _check_count(f"groups[{index}].block_tokens", block, 1, COUNT_MAX)
    common = math.lcm(*blocks)
    if common > 16 * COUNT_MAX:
        raise InvalidField(
            "block_tokens", f"{blocks} have no common multiple that a chunk could be"
        )
    return -(-configured // common) * common


def config_digest(config: Mapping[str, object]) -> bytes:
    """The digest of a model's effective configuration, overrides included, whatever its order.

    `config` holds what JSON holds. Raises InvalidField for anything else: NaN and infinities, tuples,
    names that are no strings (JSON's writer would make them lists and strings, so that two
    configurations had one digest), and what is nested deeper than Python's stack.
    """
    try:
        _check_json(config)
        text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise InvalidField("model_config", f"is no JSON value: {problem}") from None
    return hashlib.sha256(text.encode()).digest()


def scales_digest(scales: Mapping[str, tuple[float, float]]) -> bytes:
    """The digest of each layer's (k scale, v scale), by global layer name; order does not matter.

    Raises InvalidField for no scales, or one that is not a positive finite number.
    """
    _check_count("len(kv_scales)", len(scales), 1, LAYERS_MAX)
    for name, pair in scales.items():
        for scale in pair:
            if not (math.isfinite(scale) and scale > 0):
                raise InvalidField(f"kv_scales[{name}]", f"{scale} is no scale")
    exact = tuple((name, *(float(s).hex() for s in pair)) for name, pair in sorted(scales.items()))
    return hashlib.sha256(canonical.encode(exact)).digest()


def _shown(value: object) -> str:
    match value:
        case bytes():
            return value.hex() or "none"
        case Enum():
            return value.name
        case _:
            return repr(value)


# Checks.


def _check_json(value: object) -> None:
    """Raises TypeError for what JSON's writer would turn into something else, ValueError for no text."""
    match value:
        case str():
            value.encode()  # half a surrogate pair is no text, and two would be written as a whole
        case tuple():
            raise TypeError(f"{value!r:.60} is a tuple: give a list")
        case list():
            for item in value:
                _check_json(item)
        case dict():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise TypeError(f"the name {name!r:.60} is no string")
                _check_json(name)
                _check_json(item)
        case _:
            return  # numbers, true, false and null; the writer refuses the rest


def _check_weights(weights: str) -> None:
    if _COMMIT.fullmatch(weights) or _FINGERPRINT.fullmatch(weights):
        _check_name("weights", weights)
        return
    shown = repr(weights[:NAME_CHARS_MAX])
    if not weights:
        problem = "is empty"
    elif weights.startswith(("/", ".", "~")) or "\\" in weights:
        problem = f"{shown} is a local path, and what lies there can change"
    elif "@" in weights:
        problem = f"{shown} names a branch or a tag, and those move"
    else:
        problem = f"{shown} names no revision"
    raise UnknownWeights(
        "weights",
        f"{problem}: give 'NAME@COMMIT', or the 'safetensors:SHA256' of penstock.actors.weights",
    )


def _check_group(path: str, group: Group) -> None:
    names = group.layer_names
    _check_count(f"len({path}.layer_names)", len(names), 1, LAYERS_MAX)
    for index, name in enumerate(names):
        _check_name(f"{path}.layer_names[{index}]", name)
    if len(set(names)) != len(names):
        raise InvalidField(f"{path}.layer_names", "a layer is there twice")
    is_window = group.attention is Attention.WINDOW
    _check_count(
        f"{path}.window_tokens", group.window_tokens, is_window, 2**31 - 1 if is_window else 0
    )
    for field in ("kv_heads", "head_size", "components"):
        _check_count(f"{path}.{field}", getattr(group, field), 1, COUNT_MAX)
    if group.dtype not in DTYPE_BYTES:
        raise InvalidField(f"{path}.dtype", f"{group.dtype!r} is none of {', '.join(DTYPE_BYTES)}")
    _check_count(f"len({path}.shards)", len(group.shards), 1, SHARDS_MAX)
    for index, shard in enumerate(group.shards):
        _check_shard(f"{path}.shards[{index}]", shard, group.attention)


def _check_shard(path: str, shard: GroupShard, attention: Attention) -> None:
    # An object is at most 1 TiB, one token's part at most 4 GiB: beyond, a unit was mistaken.
    if attention is Attention.RECURRENT:
        _check_count(f"{path}.token_bytes", shard.token_bytes, 0, 0)
        _check_count(f"{path}.state_bytes", shard.state_bytes, 1, 2**40)
    else:
        _check_count(f"{path}.token_bytes", shard.token_bytes, 1, 2**32)
        _check_count(f"{path}.state_bytes", shard.state_bytes, 0, 0)
    _check_count(f"{path}.runs", shard.runs, 1, COUNT_MAX)
    if (shard.state_bytes or shard.token_bytes) % shard.runs:
        raise InvalidField(f"{path}.runs", f"{shard.runs} equal runs do not make up the object")


def _check_count(path: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        bound = f"must be {low} to {high}" if low != high else f"must be {low} here"
        raise InvalidField(path, f"{bound}, not {value}")


def _check_digest(path: str, value: bytes) -> None:
    if len(value) != DIGEST_BYTES:
        raise InvalidField(path, f"a digest has {DIGEST_BYTES} bytes, not {len(value)}")


def _check_name(path: str, value: str) -> None:
    if not value or len(value) > NAME_CHARS_MAX or not value.isprintable():
        raise InvalidField(path, f"must be 1 to {NAME_CHARS_MAX} printable characters")
