"""Chains of chunk keys: what they are, and what they refuse."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.api.errors import InvalidField
from penstock.actors.keys import BadTokens, Tokens, chunk_keys, object_key, pack_tokens

ROOT = hashlib.sha256(b"namespace").digest()
TOKEN = st.integers(0, 2**32 - 1)
TOKENS = st.lists(TOKEN, max_size=40)


def numpy(tokens: object, dtype: str) -> Any:
    """NumPy's own types say that its arrays are buffers from Python 3.12 on only."""
    return np.array(tokens, dtype=dtype)


FORMS: dict[str, Callable[[list[int]], Tokens]] = {
    "list": list,
    "tuple": tuple,
    "bytes": lambda tokens: struct.pack(f"<{len(tokens)}I", *tokens),
    "bytearray": lambda tokens: bytearray(struct.pack(f"<{len(tokens)}I", *tokens)),
    "array I": lambda tokens: array("I", tokens),
    "array q": lambda tokens: array("q", tokens),
    "array Q": lambda tokens: array("Q", tokens),
    "numpy uint32": lambda tokens: numpy(tokens, "uint32"),
    "numpy int64": lambda tokens: numpy(tokens, "int64"),
    "every other": lambda tokens: numpy([tokens, tokens], "int64").T.reshape(-1)[::2],
    "memoryview": lambda tokens: memoryview(array("I", tokens)),
}


def keys_of(packed: bytes) -> list[bytes]:
    return [packed[at : at + 32] for at in range(0, len(packed), 32)]


def by_the_formula(root: bytes, tokens: Sequence[int], chunk_tokens: int) -> list[bytes]:
    keys = [root]
    for start in range(0, len(tokens) - chunk_tokens + 1, chunk_tokens):
        chunk = b"".join(t.to_bytes(4, "little") for t in tokens[start : start + chunk_tokens])
        keys.append(hashlib.sha256(keys[-1] + chunk).digest())
    return keys[1:]


@given(tokens=TOKENS, chunk_tokens=st.integers(1, 9))
def test_every_form_of_tokens_gives_the_keys_of_the_formula(
    tokens: list[int], chunk_tokens: int
) -> None:
    expected = by_the_formula(ROOT, tokens, chunk_tokens)
    for name, form in FORMS.items():
        assert keys_of(chunk_keys(ROOT, form(tokens), chunk_tokens)) == expected, name


def test_signed_32_bit_tokens_are_taken() -> None:
    tokens = [0, 1, 2**31 - 1]
    assert pack_tokens(numpy(tokens, "int32")) == struct.pack("<3I", *tokens)


@given(first=TOKENS, more=TOKENS, chunk_tokens=st.integers(1, 5))
def test_a_chain_goes_on_from_an_earlier_key(
    first: list[int], more: list[int], chunk_tokens: int
) -> None:
    whole = chunk_keys(ROOT, first + more, chunk_tokens)
    kept = keys_of(chunk_keys(ROOT, first, chunk_tokens))
    rest = (first + more)[len(kept) * chunk_tokens :]
    assert b"".join(kept) + chunk_keys((kept or [ROOT])[-1], rest, chunk_tokens) == whole


@given(tokens=st.lists(st.integers(0, 9), min_size=4, max_size=20), other=st.data())
def test_equal_keys_mean_equal_prefixes(tokens: list[int], other: st.DataObject) -> None:
    """A5: what another prompt may find follows from tokens only."""
    changed = list(tokens)
    place = other.draw(st.integers(0, len(tokens) - 1))
    changed[place] += 1
    ours, theirs = (keys_of(chunk_keys(ROOT, t, 2)) for t in (tokens, changed))
    same = place // 2
    assert ours[:same] == theirs[:same]
    assert not set(ours[same:]) & set(theirs[same:])


def test_another_root_shares_no_key() -> None:
    tokens = list(range(64))
    other = hashlib.sha256(b"other").digest()
    ours, theirs = (keys_of(chunk_keys(root, tokens, 4)) for root in (ROOT, other))
    assert not set(ours) & set(theirs)


def test_an_extra_enters_the_key_of_its_chunk_and_of_all_after_it() -> None:
    tokens = list(range(14))
    plain = keys_of(chunk_keys(ROOT, tokens, 4))
    image = keys_of(chunk_keys(ROOT, tokens, 4, extras={1: b"image"}))
    assert image[0] == plain[0]
    assert not set(image[1:]) & set(plain[1:])
    chunk = struct.pack("<4I", *tokens[4:8])
    assert image[1] == hashlib.sha256(plain[0] + chunk + b"image").digest()
    # An empty one is none; one of the chunk that is not whole is left out with it.
    assert keys_of(chunk_keys(ROOT, tokens, 4, extras={1: b"", 3: b"image"})) == plain
    for absent in (-1, 4):
        with pytest.raises(InvalidField, match="there is no chunk"):
            chunk_keys(ROOT, tokens, 4, extras={absent: b"image"})


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([1, 2, -1], "token 2 is -1"),
        ([2**32], "token 0 is 4294967296"),
        ([0, 1.5], "token 1 is 1.5"),
        ([0, "a"], "token 1 is 'a'"),
        ([None], "token 0 is None"),
        ([np.int64(5), np.int64(-1)], "token 1 is -1"),
        ([np.int64(5), np.uint64(2**32)], "token 1 is 4294967296"),
        ([np.int64(5), np.float32(1)], "token 1 is .*1.0"),
        (numpy([0, -7], "int64"), "token 1 is -7"),
        (numpy([0, 2**32], "int64"), "token 1 is 4294967296"),
        (numpy([5, -1], "int32"), "token 1 is -1"),
        (numpy([1.0], "float64"), "format 'd'"),
        (numpy([1], "int16"), "format 'h'"),
        (numpy([1], ">i4"), "format '>i'"),
        (numpy([[1, 2], [3, 4]], "int64"), "2 dimensions"),
        (b"12345", "5 bytes"),
        (bytearray(6), "6 bytes"),
        ("text", "str is neither"),
        (7, "int is neither"),
        (numpy({1, 2}, "object").item(), "set is neither"),
    ],
)
def test_what_is_no_token_is_refused_and_named(tokens: Tokens, says: str) -> None:
    with pytest.raises(BadTokens, match=says):
        chunk_keys(ROOT, tokens, 4)


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(InvalidField, match="previous: a key has 32 bytes, not 31"):
        chunk_keys(ROOT[1:], [1], 1)
    with pytest.raises(InvalidField, match="chunk_tokens"):
        chunk_keys(ROOT, [1], 0)
    with pytest.raises(InvalidField, match="chunk_key"):
        object_key(b"", group=0, shard=0)
    for group, shard in ((-1, 0), (0, -1), (2**32, 0)):
        with pytest.raises(InvalidField, match="not a uint32"):
            object_key(ROOT, group=group, shard=shard)


def test_an_object_is_named_by_chunk_group_and_shard() -> None:
    domain = b"penstock object key".ljust(32, b"\0")
    expected = hashlib.sha256(domain + ROOT + bytes([1, 0, 0, 0, 2, 0, 0, 0])).digest()
    assert object_key(ROOT, group=1, shard=2) == expected
    names = {object_key(ROOT, group=g, shard=s) for g in range(20) for s in range(20)}
    assert len(names) == 400


@given(previous=st.binary(min_size=32, max_size=32), group=TOKEN, shard=TOKEN)
def test_no_object_has_the_name_of_a_chunk(previous: bytes, group: int, shard: int) -> None:
    """Seen to fail without the prefix: a chunk of two tokens was named as an object."""
    name = object_key(previous, group=group, shard=shard)
    assert name != chunk_keys(previous, [group, shard], 2)
    extra = struct.pack("<2I", group, shard)
    assert name != chunk_keys(previous, extra[:4], 1, extras={0: extra[4:]})
