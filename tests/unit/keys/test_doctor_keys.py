"""E1: `penstock doctor keys` names the first difference of two key chains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.api.errors import InvalidField
from penstock.actors.cli.main import main
from penstock.actors.core.key_diff import Cause, Chain, compare
from penstock.actors.core.namespace import Attention, Group, GroupShard, Namespace
from penstock.actors.core.plain import from_plain, to_plain
from penstock.actors.keys import chunk_keys

NAMESPACE = Namespace(
    weights="org/model@" + "ab" * 20,
    model_config_digest=bytes(32),
    chunk_tokens=4,
    groups=(
        Group(("l.0", "l.1"), Attention.FULL, 0, 2, 8, 2, "bfloat16", (GroupShard(64, 0, 4),)),
        Group(("l.2",), Attention.RECURRENT, 0, 1, 64, 1, "uint8", (GroupShard(0, 64, 1),)),
    ),
)
TOKENS = list(range(100, 114))  # 3 whole chunks of 4, and 2 tokens more
Write = Callable[..., str]


def split(packed: bytes) -> tuple[bytes, ...]:
    return tuple(packed[at : at + 32] for at in range(0, len(packed), 32))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, namespace: Namespace = NAMESPACE, /, **parts: object) -> str:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"namespace": to_plain(namespace), **parts}))
        return str(path)

    return write


def doctor(a: str, b: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    status = main(["doctor", "keys", a, b, "--json"])
    return status, json.loads(capsys.readouterr().out)


def recorded(namespace: Namespace = NAMESPACE, root: bytes | None = None) -> list[str]:
    keys = chunk_keys(root or namespace.digest(), TOKENS, namespace.chunk_tokens)
    return [key.hex() for key in split(keys)]


def test_equal_chains_in_any_form(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = write("tokens", tokens=TOKENS)
    keys = write("keys", keys=recorded())
    both = write("both", tokens=TOKENS, keys=recorded(), extras={})
    for other in (tokens, keys, both):
        assert doctor(tokens, other, capsys) == (
            0,
            {"cause": "NOTHING", "chunk": 3, "text": "all 3 chunks are the same"},
        )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (replace(NAMESPACE, generation=1), "namespace.generation: 0 against 1."),
        (
            replace(NAMESPACE, groups=NAMESPACE.groups[:1]),
            "namespace.len(groups): 2 against 1.",
        ),
        (
            replace(
                NAMESPACE,
                groups=(replace(NAMESPACE.groups[0], dtype="float16"), NAMESPACE.groups[1]),
            ),
            "namespace.groups[0].dtype: 'bfloat16' against 'float16'.",
        ),
        (
            replace(NAMESPACE, model_config_digest=b"\1" * 32),
            f"namespace.model_config_digest: {'00' * 32} against {'01' * 32}.",
        ),
        (replace(NAMESPACE, adapter=b"\xaa"), "namespace.adapter: none against aa."),
    ],
)
def test_another_namespace_is_named_by_its_part(
    write: Write, capsys: pytest.CaptureFixture[str], changed: Namespace, says: str
) -> None:
    status, found = doctor(write("a", tokens=TOKENS), write("b", changed, tokens=TOKENS), capsys)
    assert (status, found["cause"], found["chunk"]) == (1, "NAMESPACE", 0)
    assert found["text"] == f"{says} No key can be the same."


def test_a_salt_is_named_and_not_shown(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """D1: no secret is printed."""
    other = write("b", replace(NAMESPACE, salt=b"s3cret"), tokens=TOKENS)
    _, found = doctor(write("a", tokens=TOKENS), other, capsys)
    assert "salt" in str(found["text"])
    assert "s3cret" not in str(found["text"])
    assert b"s3cret".hex() not in str(found["text"])


def test_the_token_that_differs_is_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    other = [*TOKENS[:6], 7, *TOKENS[7:]]
    status, found = doctor(write("a", tokens=TOKENS), write("b", tokens=other), capsys)
    assert (status, found["cause"], found["chunk"]) == (1, "TOKENS", 1)
    assert found["text"] == (
        "the first 1 chunks are the same; chunk 1 differs at token 6: 106 in A, 7 in B"
    )


def test_another_image_is_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write(x, tokens=TOKENS, extras={"2": x * 2}) for x in "ab")
    _, found = doctor(first, second, capsys)
    assert (found["cause"], found["chunk"]) == ("EXTRA", 2)
    assert str(found["text"]).endswith("another extra: aa in A, bb in B")


def test_a_random_hash_seed_is_found(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """E1: zero hits because one engine's chain begins from a random root.

    Seen to fail without the comparison against the followed keys: cause KEYS, and no word of a seed.
    """
    random = write("b", tokens=TOKENS, keys=recorded(root=b"\7" * 32))
    status, found = doctor(write("a", tokens=TOKENS), random, capsys)
    assert (status, found["cause"], found["chunk"]) == (1, "FOREIGN_KEYS", 0)
    assert str(found["text"]).startswith("B: the key of chunk 0")
    assert "random hash seed" in str(found["text"])
    # Keys alone do not tell it for certain, but hint at it.
    _, found = doctor(write("a", tokens=TOKENS), write("b", keys=recorded(root=b"\7" * 32)), capsys)
    assert found["cause"] == "KEYS"
    assert "another root" in str(found["text"])


def test_a_key_beyond_the_tokens_is_foreign(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = write("a", tokens=TOKENS, keys=[*recorded(), "00" * 32])
    _, found = doctor(longer, write("b", tokens=TOKENS), capsys)
    assert (found["cause"], found["chunk"]) == ("FOREIGN_KEYS", 3)


def test_a_chain_that_ends_is_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor(write("a", tokens=TOKENS), write("b", keys=recorded()[:1]), capsys)
    assert (status, found["cause"], found["chunk"]) == (1, "LENGTH", 1)
    assert found["text"] == "the first 1 chunks are the same; B ends there and A has 2 more"


def test_it_is_said_in_words(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "keys", write("a", tokens=[1]), write("b", tokens=[1])]) == 0
    assert capsys.readouterr().out == "the chains are equal\n  all 0 chunks are the same\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "document: must be an object"),
        ("{}", "namespace: must be an object, not null"),
        ('{"name": 1}', "name: is not known here"),
        ('{"namespace": {"weights": 1}}', "namespace.weights: must be a string, not a number"),
        ('{"namespace": {"wieghts": ""}}', "namespace.wieghts: is not known here"),
    ],
)
def test_a_file_that_is_no_record_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main(["doctor", "keys", str(path), str(path)]) == 2
    assert f"penstock: {path}: {says}" in capsys.readouterr().err


@pytest.mark.parametrize("part", [{"tokens": [1]}, {"keys": ["00" * 32]}])
def test_weights_that_are_no_text_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: Mapping[str, object]
) -> None:
    """Seen to fail with "is no JSON", which it is."""
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"namespace": changed("weights", "\ud800@" + "ab" * 20), **part}))
    assert main(["doctor", "keys", str(path), str(path)]) == 2
    assert f"penstock: {path}: weights: must be" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "keys", "no.json", "no.json"]) == 2
    assert "no.json: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({}, "has neither tokens nor keys"),
        ({"tokens": 1}, "tokens: must be an array"),
        ({"tokens": [-1]}, "tokens: token 0 is -1"),
        ({"keys": ["0"]}, "keys[0]: must be a string of hexadecimal"),
        ({"keys": [1]}, "keys[0]: must be a string of hexadecimal"),
        ({"keys": ["00"]}, "keys[0]: a key has 32 bytes"),
        ({"tokens": [], "extras": []}, "extras: must be an object"),
        ({"tokens": [], "extras": {"a": ""}}, "extras: 'a' is no chunk number"),
        ({"tokens": [], "extras": {"9" * 5000: ""}}, "extras: '999"),
        ({"tokens": [], "extras": {"\u0663": ""}}, "is no chunk number"),
        ({"tokens": [], "extras": {"01": ""}}, "extras: '01' is no chunk number"),
        ({"tokens": [], "extras": {"1": "zz"}}, "extras.1: must be a string of hexadecimal"),
        ({"tokens": [], "extras": {"1": "00"}}, "extras: there is no chunk 1"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(
    write: Write, capsys: pytest.CaptureFixture[str], parts: Mapping[str, object], says: str
) -> None:
    path = write("bad", **parts)
    assert main(["doctor", "keys", path, path]) == 2
    assert says in capsys.readouterr().err


PLAIN = to_plain(NAMESPACE)


def changed(path: str, value: object) -> object:
    document = json.loads(json.dumps(PLAIN))
    *above, last = path.split("/")
    inside = document
    for step in above:
        inside = inside[int(step) if step.isdecimal() else step]
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    return document


def test_a_namespace_is_read_as_it_was_written() -> None:
    assert from_plain(Namespace, json.loads(json.dumps(PLAIN))) == NAMESPACE


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("groups", None, "groups: is missing"),
        ("groups", {}, "groups: must be an array, not an object"),
        ("groups/0/dtype", None, "groups[0].dtype: is missing"),
        ("groups/1/attention", "full", "groups[1].attention: 'full' is none of FULL, WINDOW"),
        ("groups/0/shards", [1], "groups[0].shards[0]: must be an object, not a number"),
        ("chunk_tokens", True, "chunk_tokens: must be an integer, not true or false"),
        ("chunk_tokens", 1.5, "chunk_tokens: must be an integer, not a number"),
        ("salt", "0", "salt: must be hexadecimal"),
        ("generation", -1, "generation: must be 0 to"),
    ],
)
def test_a_namespace_that_does_not_fit_is_refused(path: str, value: object, says: str) -> None:
    with pytest.raises(InvalidField) as refused:
        from_plain(Namespace, changed(path, value))
    assert str(refused.value).startswith(says)


CHUNKS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"", b"x"])), max_size=4)


@given(ours=CHUNKS, theirs=CHUNKS)
def test_the_chunk_named_is_the_first_that_differs(
    ours: list[tuple[int, bytes]], theirs: list[tuple[int, bytes]]
) -> None:
    """Against the dumb answer: compare what the chunks were made from."""

    def chain(name: str, chunks: list[tuple[int, bytes]]) -> Chain:
        tokens = tuple(token for first, _ in chunks for token in (first, 0, 0, 0))
        extras = {index: extra for index, (_, extra) in enumerate(chunks) if extra}
        keys = split(chunk_keys(NAMESPACE.digest(), tokens, 4, extras=extras))
        return Chain(name, NAMESPACE, keys, keys, tokens, extras)

    found = compare(chain("A", ours), chain("B", theirs))
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if first is not None:
        expected = Cause.TOKENS if ours[first][0] != theirs[first][0] else Cause.EXTRA
        assert (found.cause, found.chunk) == (expected, first)
    else:
        assert found.cause is (Cause.NOTHING if ours == theirs else Cause.LENGTH)
        assert found.chunk == min(len(ours), len(theirs))
