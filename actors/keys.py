"""Keys: 32-byte names of chunks and objects, a chain over everything that decided their bytes.

    key_0       = H(namespace)                         the namespace's digest
    key_i       = H(key_{i-1} || tokens of chunk i || extra_i)
    object key  = H(domain || key_i || group || shard)

`H` is SHA-256; tokens, group and shard are packed little-endian uint32. The chain is unambiguous,
because key and tokens of a chunk have fixed lengths (`chunk_tokens` is part of the namespace) and
the extra comes last. Equal keys therefore mean equal prefixes, whoever asks.

`domain` is a constant as long as a key. It stands where a chunk has the key before it, and no
SHA-256 comes out as that text: so no chunk key is ever an object key, whatever the tokens.
"""

from __future__ import annotations

import hashlib
import operator
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.types import KEY_BYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer

Tokens: TypeAlias = "Buffer | Sequence[int]"
"""Token ids. Bytes are packed little-endian uint32; any other one-dimensional buffer of 4- or
8-byte integers (array, NumPy) and any sequence of ints has one token an element."""

TOKEN_BYTES = 4
TOKEN_MAX = 2**32 - 1
NO_EXTRAS: Mapping[int, bytes] = MappingProxyType({})
_BYTE_KINDS = frozenset("Bbc")
_INTEGER_KINDS = frozenset("iIlLqQ")
_OBJECT = struct.Struct("<II")
_OBJECT_DOMAIN = b"penstock object key".ljust(KEY_BYTES, b"\0")

assert sys.byteorder == "little", "keys are packed as they lie in memory"


class BadTokens(InvalidField):
    """Yours: these are not token ids. Every token is an integer from 0 to 2**32 - 1."""


def chunk_keys(
    previous: bytes, tokens: Tokens, chunk_tokens: int, *, extras: Mapping[int, bytes] = NO_EXTRAS
) -> bytes:
    """The keys of the whole chunks in `tokens`, packed; tokens beyond them are left out.

    `previous` is what the chain goes on from: the namespace's digest at the start of a prompt, or
    the last key of the chunks before `tokens`. `extras` holds, by chunk index in `tokens`, what
    else decided a chunk's KV (multimodal hashes). An empty extra is none; one of a last chunk that
    is not whole is left out with it.

    Raises BadTokens for what is not a sequence of tokens, InvalidField for a `previous` that is no
    key, a `chunk_tokens` below 1, or an extra of a chunk that is not there.
    """
    if len(previous) != KEY_BYTES:
        raise InvalidField("previous", f"a key has {KEY_BYTES} bytes, not {len(previous)}")
    if chunk_tokens < 1:
        raise InvalidField("chunk_tokens", f"must be at least 1, not {chunk_tokens}")
    packed = pack_tokens(tokens)
    chunk_bytes = chunk_tokens * TOKEN_BYTES
    chunks = len(packed) // chunk_bytes
    chunks_begun = -(-len(packed) // chunk_bytes)
    for chunk in extras:
        if not 0 <= chunk < chunks_begun:
            raise InvalidField(
                "extras", f"there is no chunk {chunk}: the tokens have {chunks_begun}"
            )
    sha256 = hashlib.sha256
    key = previous
    keys = []
    # Two loops: on the plain one a 128 k prompt spends a fifth of its time looking for extras.
    if not extras:
        for start in range(0, chunks * chunk_bytes, chunk_bytes):
            key = sha256(key + packed[start : start + chunk_bytes]).digest()
            keys.append(key)
    else:
        for chunk in range(chunks):
            start = chunk * chunk_bytes
            body = packed[start : start + chunk_bytes] + extras.get(chunk, b"")
            key = sha256(key + body).digest()
            keys.append(key)
    return b"".join(keys)


def object_key(chunk_key: bytes, *, group: int, shard: int) -> bytes:
    """The name of one object outside the table: in stores and among peers.

    `group` and `shard` are positions, as in the namespace. Never equal to a chunk key.
    Raises InvalidField when they are not uint32, or `chunk_key` is no key.
    """
    if len(chunk_key) != KEY_BYTES:
        raise InvalidField("chunk_key", f"a key has {KEY_BYTES} bytes, not {len(chunk_key)}")
    for name, value in (("group", group), ("shard", shard)):
        if not 0 <= value <= TOKEN_MAX:
            raise InvalidField(name, f"{value} is not a uint32")
    return hashlib.sha256(_OBJECT_DOMAIN + chunk_key + _OBJECT.pack(group, shard)).digest()


def pack_tokens(tokens: Tokens) -> bytes:
    """`tokens` as packed little-endian uint32. Raises BadTokens that names the token at fault."""
    if isinstance(tokens, bytes):
        return _whole(tokens)
    try:
        view = memoryview(tokens)  # type: ignore[arg-type]
    except TypeError:
        return _pack_sequence(tokens)  # type: ignore[arg-type]
    with view:
        return _pack_buffer(view)


def _pack_buffer(view: memoryview) -> bytes:
    if view.ndim != 1:
        raise BadTokens("tokens", f"a buffer of {view.ndim} dimensions: give one dimension")
    kind, item_bytes = view.format.lstrip("@=<"), view.itemsize
    if item_bytes == 1 and kind in _BYTE_KINDS:
        return _whole(view.tobytes())
    if kind not in _INTEGER_KINDS or item_bytes not in {TOKEN_BYTES, 2 * TOKEN_BYTES}:
        raise BadTokens(
            "tokens", f"a buffer of format {view.format!r}: give 4- or 8-byte integers, or bytes"
        )
    words = memoryview(view.tobytes()).cast("I")  # tobytes: a buffer may be strided
    if item_bytes == 2 * TOKEN_BYTES:
        if _any_set(words[1::2].tobytes()):
            raise _first_bad(view.tolist())
        return words[::2].tobytes()
    if kind.islower() and not words.cast("B")[TOKEN_BYTES - 1 :: TOKEN_BYTES].tobytes().isascii():
        raise _first_bad(view.tolist())
    return words.tobytes()


def _pack_sequence(tokens: Sequence[int]) -> bytes:
    if not isinstance(tokens, Sequence):
        raise _first_bad(tokens)
    try:
        return array("I", tokens).tobytes()
    except (TypeError, OverflowError):
        raise _first_bad(tokens) from None


def _whole(packed: bytes) -> bytes:
    if len(packed) % TOKEN_BYTES:
        raise BadTokens("tokens", f"{len(packed)} bytes are no whole number of packed uint32")
    return packed


def _any_set(data: bytes) -> bool:
    """Whether any byte is not zero."""
    return data.count(0) != len(data)


def _first_bad(tokens: Sequence[object]) -> BadTokens:
    if not isinstance(tokens, Sequence) or isinstance(tokens, str):
        return BadTokens("tokens", f"{type(tokens).__name__} is neither a buffer nor a sequence")
    for index, token in enumerate(tokens):
        try:
            number = operator.index(token)  # type: ignore[arg-type]  # NumPy's integers are none of int
        except TypeError:
            return BadTokens("tokens", f"token {index} is {token!r}, not an integer below 2**32")
        if not 0 <= number <= TOKEN_MAX:
            return BadTokens("tokens", f"token {index} is {number}, not an integer below 2**32")
    raise AssertionError("every token is good")
