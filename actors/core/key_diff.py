"""Why two key chains share no more than they do: the first part or chunk in which they differ.

1. the namespaces differ      every key differs; the part is named
2. a chain does not follow    its keys were made elsewhere: a random hash seed, another version
   from its own namespace and tokens
3. a chunk's tokens differ    that key and all after it differ; the token is named
4. a chunk's extra differs    as 3: another image behind the same placeholder tokens
5. only the keys differ       one chain has no tokens to compare
6. one chain ends             the rest of the other was never stored, or never asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from penstock.actors.core.namespace import Namespace, describe_difference


class Cause(Enum):
    """What sets two chains apart, in the order in which it is looked for."""

    NOTHING = "the chains are equal"
    NAMESPACE = "a part of the namespace differs"
    FOREIGN_KEYS = "the keys do not follow from the namespace and the tokens"
    TOKENS = "a chunk's tokens differ"
    EXTRA = "a chunk's extra differs"
    KEYS = "a chunk's key differs, for a reason that the records do not hold"
    LENGTH = "one chain ends where the other goes on"


@dataclass(frozen=True, slots=True)
class Chain:
    """One side of the comparison."""

    name: str
    namespace: Namespace
    keys: tuple[bytes, ...]  # as recorded; else as they follow from the tokens
    followed_keys: tuple[bytes, ...] | None = None  # from namespace and tokens; None: no tokens
    tokens: tuple[int, ...] | None = None
    extras: Mapping[int, bytes] = field(default_factory=dict)

    def chunk(self, index: int) -> tuple[int, ...] | None:
        """The tokens of one chunk; None when they are not known."""
        size = self.namespace.chunk_tokens
        return None if self.tokens is None else self.tokens[index * size : (index + 1) * size]


@dataclass(frozen=True, slots=True)
class Finding:
    """The first difference. `chunk` is where the chains part: that many chunks can be hits."""

    cause: Cause
    chunk: int
    sentence: str


def compare(ours: Chain, theirs: Chain) -> Finding:
    """The first difference between two chains."""
    part = describe_difference(ours.namespace, theirs.namespace)
    if part is not None:
        return Finding(Cause.NAMESPACE, 0, f"namespace.{part}. No key can be the same.")
    for chain in (ours, theirs):
        chunk = _first_foreign(chain)
        if chunk is not None:
            return Finding(
                Cause.FOREIGN_KEYS,
                chunk,
                f"{chain.name}: the key of chunk {chunk} does not follow from its namespace and"
                " tokens, so it was made elsewhere: by an engine with a random hash seed, or by"
                " another version",
            )
    shared = min(len(ours.keys), len(theirs.keys))
    chunk = next((i for i in range(shared) if ours.keys[i] != theirs.keys[i]), shared)
    if chunk < shared:
        return _explain(ours, theirs, chunk)
    if len(ours.keys) != len(theirs.keys):
        longer, shorter = sorted((ours, theirs), key=lambda chain: -len(chain.keys))
        return Finding(
            Cause.LENGTH,
            shared,
            f"the first {shared} chunks are the same; {shorter.name} ends there and"
            f" {longer.name} has {len(longer.keys) - shared} more",
        )
    return Finding(Cause.NOTHING, shared, f"all {shared} chunks are the same")


def _first_foreign(chain: Chain) -> int | None:
    followed = chain.followed_keys
    if followed is None:
        return None
    pairs = zip(chain.keys, followed, strict=False)
    first = next((index for index, (mine, right) in enumerate(pairs) if mine != right), None)
    if first is None and len(chain.keys) > len(followed):
        return len(followed)  # a key of a chunk that the tokens do not fill
    return first


def _explain(ours: Chain, theirs: Chain, chunk: int) -> Finding:
    """Why the keys of `chunk` differ where all before it are equal."""
    mine, other = ours.chunk(chunk), theirs.chunk(chunk)
    same = f"the first {chunk} chunks are the same; " if chunk else ""
    if mine is None or other is None:
        hint = "" if chunk else "; if the tokens are the same, one chain began from another root"
        return Finding(Cause.KEYS, chunk, f"{same}the keys of chunk {chunk} differ{hint}")
    for place, (my_token, other_token) in enumerate(zip(mine, other, strict=True)):
        if my_token != other_token:
            token = chunk * ours.namespace.chunk_tokens + place
            return Finding(
                Cause.TOKENS,
                chunk,
                f"{same}chunk {chunk} differs at token {token}: {my_token} in {ours.name},"
                f" {other_token} in {theirs.name}",
            )
    return Finding(
        Cause.EXTRA,
        chunk,
        f"{same}chunk {chunk} has the same tokens and another extra:"
        f" {_extra(ours, chunk)} in {ours.name}, {_extra(theirs, chunk)} in {theirs.name}",
    )


def _extra(chain: Chain, chunk: int) -> str:
    return chain.extras.get(chunk, b"").hex() or "none"
