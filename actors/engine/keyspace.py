"""Chunk keys made on the engine's side, and the memory that saves making and sending them twice.

Keys are cheaper made here than by the node: the tokens need not travel, and a prompt that grew costs only its new
chunks. All keys follow from `Namespace` and tokens alone; a request id never enters them, so the same id with other
tokens can never meet another prompt's KV (scenario A5).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.core.namespace import Namespace
from penstock.actors.keys import TOKEN_BYTES, Tokens, chunk_keys, pack_tokens

ROOTS_MAX = 256  # (adapter, salt) pairs whose root is remembered


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine names it: by its tokens, or by keys it made earlier."""

    keys: bytes  # packed
    tokens: bytes = b""  # packed; empty: named by keys
    salt: bytes = b""
    adapter: bytes = b""
    extras: Mapping[int, bytes] | None = None

    @property
    def chunks(self) -> int:
        return len(self.keys) // KEY_BYTES

    def cut(self, chunks_max: int) -> Prompt:
        """The first `chunks_max` chunks of it."""
        if self.chunks <= chunks_max:
            return self
        return replace(self, keys=self.keys[: chunks_max * KEY_BYTES])

    def key(self, chunk: int) -> bytes:
        """The key of one chunk; empty for the chunk before the first."""
        return b"" if chunk < 0 else self.keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES]


class KeySpace:
    """The key chains of one namespace."""

    def __init__(self, namespace: Namespace, *, chunk_tokens: int) -> None:
        self._namespace = namespace
        self._roots: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
        self.chunk_tokens = chunk_tokens
        self.digest = namespace.digest()

    def namespace(self, adapter: bytes, salt: bytes) -> Namespace:
        """The namespace of this adapter and salt. Raises InvalidField."""
        return replace(self._namespace, adapter=adapter, salt=salt)

    def root(self, adapter: bytes, salt: bytes) -> bytes:
        """The digest that begins the chains of this adapter and salt."""
        if not adapter and not salt:
            return self.digest
        root = self._roots.get((adapter, salt))
        if root is None:
            root = self.namespace(adapter, salt).digest()
            self._roots[adapter, salt] = root
            if len(self._roots) > ROOTS_MAX:
                self._roots.popitem(last=False)
        return root

    def prompt(
        self,
        tokens: Tokens,
        *,
        salt: bytes = b"",
        adapter: bytes = b"",
        extras: Mapping[int, bytes] | None = None,
        known: Prompt | None = None,
    ) -> Prompt:
        """Name a prompt by its tokens. Chunks it shares with `known`, from its start, are not hashed again.

        `extras`: for each chunk that has any, what else enters its key (multimodal hashes).
        One of a last chunk that is not whole enters no key. Raises BadTokens; InvalidField for an extra of a chunk
        that is not there.
        """
        packed = pack_tokens(tokens)
        shared = 0 if known is None else self._shared_chunks(packed, salt, adapter, extras, known)
        kept = b"" if known is None else known.keys[: shared * KEY_BYTES]
        more = chunk_keys(
            kept[-KEY_BYTES:] or self.root(adapter, salt),
            packed[shared * self.chunk_tokens * TOKEN_BYTES :],
            self.chunk_tokens,
            extras={
                chunk - shared: extra for chunk, extra in (extras or {}).items() if chunk >= shared
            },
        )
        return Prompt(kept + more, packed, salt, adapter, extras)

    def _shared_chunks(
        self,
        tokens: bytes,
        salt: bytes,
        adapter: bytes,
        extras: Mapping[int, bytes] | None,
        known: Prompt,
    ) -> int:
        """Chunks from the start that are equal in `tokens` and `known`, by comparing tokens."""
        if (salt, adapter) != (known.salt, known.adapter):
            return 0
        size = self.chunk_tokens * TOKEN_BYTES
        high = min(len(tokens) // size, len(known.tokens) // size, known.chunks)
        if extras or known.extras:
            changed = {
                chunk
                for chunk in {*(extras or {}), *(known.extras or {})}
                if (extras or {}).get(chunk) != (known.extras or {}).get(chunk)
            }
            high = min([high, *changed])
        return shared_units(tokens, known.tokens, unit_bytes=size, units_max=high)


def shared_units(ours: bytes, theirs: bytes, *, unit_bytes: int, units_max: int) -> int:
    """How many leading units of `unit_bytes` are equal, up to `units_max`; both have that many.

    Slices of bytes are compared by memcmp; memoryviews would be compared element by element.
    """
    if ours[: units_max * unit_bytes] == theirs[: units_max * unit_bytes]:
        return units_max
    low, high = 0, units_max  # equal before low, different somewhere before high
    while high - low > 1:
        middle = (low + high) // 2
        first, end = low * unit_bytes, middle * unit_bytes
        if ours[first:end] == theirs[first:end]:
            low = middle
        else:
            high = middle
    return low


def pack_keys(keys: object) -> bytes:
    """Packed keys from packed keys or a sequence of keys. Raises InvalidField for what is neither."""
    if isinstance(keys, bytes | bytearray | memoryview):
        packed = bytes(keys)
    elif isinstance(keys, Sequence) and not isinstance(keys, str):
        packed = b"".join(_one_key(index, key) for index, key in enumerate(keys))
    else:
        raise InvalidField("keys", f"{type(keys).__name__} is neither bytes nor a sequence of keys")
    if len(packed) % KEY_BYTES:
        raise InvalidField(
            "keys", f"{len(packed)} bytes of packed keys are no multiple of {KEY_BYTES}"
        )
    return packed


def _one_key(index: int, key: object) -> bytes:
    if not isinstance(key, bytes | bytearray | memoryview) or len(bytes(key)) != KEY_BYTES:
        raise InvalidField(f"keys[{index}]", f"a key is {KEY_BYTES} bytes, not {key!r:.80}")
    return bytes(key)
