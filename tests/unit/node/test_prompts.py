"""From what the wire carries to chunk keys: the three forms, their bounds, and what a delta builds on."""

from __future__ import annotations

import struct
from dataclasses import replace

import anyio
import pytest
from support.declarations import CHUNK_TOKENS, keys, namespace

from penstock.actors.api.errors import Denied, InvalidField, PromptForgotten, TooLarge
from penstock.actors.core.namespace import RootDigests
from penstock.actors.keys import chunk_keys
from penstock.actors.prompts import CHUNKS_A_STEP, Prompts, ResolvedPrompt
from penstock.protos.engine_pb2 import ChunkExtra, Delta, Prompt


def made(
    *,
    chunks_max: int = 64,
    kept_bytes_max: int = 1 << 20,
    tenants: frozenset[bytes] | None = None,
) -> Prompts:
    return Prompts(
        RootDigests(namespace()),
        chunk_tokens=CHUNK_TOKENS,
        chunks_max=chunks_max,
        kept_bytes_max=kept_bytes_max,
        tenants=tenants,
    )


def resolved(prompts: Prompts, prompt: Prompt) -> ResolvedPrompt:
    return anyio.run(prompts.resolve, prompt)


def tokens(count: int, *, first: int = 0) -> bytes:
    return struct.pack(f"<{count}I", *range(first, first + count))


def test_tokens_become_the_keys_a_client_would_compute() -> None:
    prompt = resolved(made(), Prompt(tokens=tokens(3 * CHUNK_TOKENS + 5)))
    assert prompt.keys == chunk_keys(namespace().digest(), tokens(48), CHUNK_TOKENS)
    assert prompt.parent == b""


def test_a_long_prompt_is_hashed_in_steps_to_the_same_keys() -> None:
    """B12: a prompt of a million tokens held the loop for 9 ms. Extras stay with their chunks across the steps."""
    extras = {0: b"image", CHUNKS_A_STEP - 1: b"a", CHUNKS_A_STEP: b"b", 2 * CHUNKS_A_STEP: b"c"}
    body = tokens((2 * CHUNKS_A_STEP + 1) * CHUNK_TOKENS + 3)
    prompt = Prompt(tokens=body, extras=[ChunkExtra(chunk=c, extra=e) for c, e in extras.items()])
    expected = chunk_keys(namespace().digest(), body, CHUNK_TOKENS, extras=extras)
    assert resolved(made(chunks_max=4 * CHUNKS_A_STEP), prompt).keys == expected


def test_more_extras_than_chunks_are_refused_before_they_are_read() -> None:
    many = Prompt(tokens=tokens(16), extras=[ChunkExtra(chunk=0)] * 2)
    with pytest.raises(InvalidField, match=r"2 of them, the prompt has 1 whole"):
        resolved(made(), many)


def test_keys_pass_as_they_are() -> None:
    assert resolved(made(), Prompt(keys=keys(3))).keys == keys(3)
    assert resolved(made(), Prompt(keys=b"")).keys == b""


def test_salt_adapter_and_extras_each_lead_to_other_keys() -> None:
    """A12, A13: no prompt of another adapter, tenant or image can hit.

    Seen to fail with salt and adapter left out of the digest that begins the chain.
    """
    prompts, body = made(), tokens(2 * CHUNK_TOKENS)
    variants = [
        Prompt(tokens=body),
        Prompt(tokens=body, salt=b"a"),
        Prompt(tokens=body, salt=b"b"),
        Prompt(tokens=body, adapter=b"a"),
        Prompt(tokens=body, extras=[ChunkExtra(chunk=0, extra=b"image")]),
    ]
    first_keys = {resolved(prompts, one).keys[:32] for one in variants}
    assert len(first_keys) == len(variants)
    salted = replace(namespace(), salt=b"a").digest()
    assert resolved(prompts, variants[1]).keys == chunk_keys(salted, body, CHUNK_TOKENS)


def test_a_delta_of_tokens_equals_the_whole_prompt() -> None:
    prompts = made()
    begun = resolved(prompts, Prompt(tokens=tokens(32), salt=b"tenant", adapter=b"lora"))
    base = prompts.remember(begun)
    grown = resolved(prompts, Prompt(delta=Delta(base=base, tokens=tokens(32, first=32))))
    whole = resolved(prompts, Prompt(tokens=tokens(64), salt=b"tenant", adapter=b"lora"))
    assert grown == whole
    other = resolved(
        prompts, Prompt(delta=Delta(base=base, base_chunks=1, tokens=tokens(16, first=16)))
    )
    assert other.keys == whole.keys[:64]


def test_a_delta_on_a_prompt_too_short_for_a_chunk_begins_at_the_namespace() -> None:
    prompts = made()
    base = prompts.remember(resolved(prompts, Prompt(tokens=tokens(3), salt=b"tenant")))
    grown = resolved(prompts, Prompt(delta=Delta(base=base, tokens=tokens(16))))
    assert grown.keys == resolved(prompts, Prompt(tokens=tokens(16), salt=b"tenant")).keys


def test_a_delta_of_keys_is_appended() -> None:
    prompts = made()
    base = prompts.remember(resolved(prompts, Prompt(keys=keys(3))))
    more = keys(2, prompt="more")
    assert resolved(prompts, Prompt(delta=Delta(base=base, keys=more))).keys == keys(3) + more
    cut = resolved(prompts, Prompt(delta=Delta(base=base, base_chunks=1, keys=more)))
    assert cut.keys == keys(1) + more


def test_a_delta_may_not_come_under_another_salt_or_adapter() -> None:
    """A13: a salt given beside a delta would be dropped, and the tenant served under the base's.

    Seen to fail while salt and adapter of a delta were not looked at.
    """
    prompts = made()
    base = prompts.remember(resolved(prompts, Prompt(tokens=tokens(16), salt=b"a", adapter=b"x")))
    delta = Delta(base=base, tokens=tokens(16, first=16))
    with pytest.raises(InvalidField, match=r"prompt\.salt"):
        resolved(prompts, Prompt(delta=delta, salt=b"b"))
    with pytest.raises(InvalidField, match=r"prompt\.adapter"):
        resolved(prompts, Prompt(delta=delta, adapter=b"y"))
    resolved(prompts, Prompt(delta=delta, salt=b"a", adapter=b"x"))  # saying it again is no harm


@pytest.mark.parametrize("form", ["keys", "delta of keys"])
def test_extras_without_tokens_are_refused_and_not_dropped(form: str) -> None:
    """A13's sibling: an image's hash that does not enter the key would serve another image's KV.

    Seen to fail while extras were only read in the token forms.
    """
    prompts = made()
    base = prompts.remember(resolved(prompts, Prompt(keys=keys(1))))
    prompt = Prompt(extras=[ChunkExtra(chunk=0, extra=b"image")])
    if form == "keys":
        prompt.keys = keys(1)
    else:
        prompt.delta.CopyFrom(Delta(base=base, keys=keys(1, prompt="more")))
    with pytest.raises(InvalidField, match=r"prompt\.extras"):
        resolved(prompts, prompt)


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (Prompt(), "prompt"),
        (Prompt(keys=b"k" * 33), "prompt.keys"),
        (Prompt(tokens=b"t" * 5), "prompt.tokens"),
        (Prompt(tokens=b"", salt=b"s" * 257), "prompt.salt"),
        (Prompt(tokens=b"", adapter=b"a" * 65), "prompt.adapter"),
        (Prompt(tokens=tokens(16), extras=[ChunkExtra(chunk=1, extra=b"x")]), "prompt.extras"),
        (Prompt(tokens=tokens(16), extras=[ChunkExtra(extra=b"x" * 1025)]), "prompt.extras"),
        (Prompt(tokens=tokens(16), extras=[ChunkExtra(), ChunkExtra()]), "prompt.extras"),
        (Prompt(delta=Delta(base=1, base_chunks=3)), "prompt.delta.base_chunks"),
        (Prompt(delta=Delta(base=1, tokens=b"t" * 3)), "prompt.delta.tokens"),
        (Prompt(delta=Delta(base=1, keys=b"k")), "prompt.delta.keys"),
    ],
)
def test_what_is_no_prompt_is_refused_with_the_path_of_the_field(
    prompt: Prompt, field: str
) -> None:
    prompts = made()
    assert prompts.remember(resolved(prompts, Prompt(keys=keys(2)))) == 1
    with pytest.raises(InvalidField) as refused:
        resolved(prompts, prompt)
    assert refused.value.field == field


def test_the_bound_of_chunks_holds_for_every_form() -> None:
    prompts = made(chunks_max=2)
    for prompt, field in (
        (Prompt(keys=keys(3)), "prompt.keys"),
        (Prompt(tokens=tokens(48)), "prompt.tokens"),
    ):
        with pytest.raises(TooLarge) as refused:
            resolved(prompts, prompt)
        assert refused.value.field == field
    base = prompts.remember(resolved(prompts, Prompt(keys=keys(2))))
    with pytest.raises(TooLarge):
        resolved(prompts, Prompt(delta=Delta(base=base, keys=keys(1))))
    with pytest.raises(TooLarge):
        resolved(prompts, Prompt(delta=Delta(base=base, tokens=tokens(16))))


def test_the_oldest_prompts_are_forgotten_and_using_one_keeps_it() -> None:
    prompts = made(kept_bytes_max=5000)
    first = prompts.remember(resolved(prompts, Prompt(keys=keys(40, prompt="1"))))
    second = prompts.remember(resolved(prompts, Prompt(keys=keys(40, prompt="2"))))
    resolved(prompts, Prompt(delta=Delta(base=first)))
    prompts.remember(resolved(prompts, Prompt(keys=keys(60, prompt="3"))))
    resolved(prompts, Prompt(delta=Delta(base=first)))
    with pytest.raises(PromptForgotten, match="send the prompt whole"):
        resolved(prompts, Prompt(delta=Delta(base=second)))
    with pytest.raises(PromptForgotten):
        resolved(prompts, Prompt(delta=Delta(base=99)))


def test_prompts_without_a_whole_chunk_are_bounded_too() -> None:
    """Seen to fail while only keys were counted: every short prompt was remembered for ever."""
    prompts = made(kept_bytes_max=10_000)
    short = resolved(prompts, Prompt(tokens=tokens(3), salt=b"s" * 100))
    first = prompts.remember(short)
    for _ in range(100):
        prompts.remember(short)
    with pytest.raises(PromptForgotten):
        resolved(prompts, Prompt(delta=Delta(base=first)))


def test_a_prompt_larger_than_the_memory_is_answered_and_forgotten() -> None:
    prompts = made(kept_bytes_max=64)
    base = prompts.remember(resolved(prompts, Prompt(keys=keys(3))))
    with pytest.raises(PromptForgotten):
        resolved(prompts, Prompt(delta=Delta(base=base)))


def test_a_session_bound_to_tenants_names_their_prompts_only() -> None:
    """D6, A13: by a delta neither. Seen to fail with deltas let through whatever they bring."""
    bound = made(tenants=frozenset({b"a", b""}))
    base = resolved(bound, Prompt(tokens=tokens(CHUNK_TOKENS), salt=b"a"))
    number = bound.remember(base)
    more = tokens(CHUNK_TOKENS, first=CHUNK_TOKENS)
    assert resolved(bound, Prompt(delta=Delta(base=number, tokens=more))).salt == b"a"
    assert resolved(bound, Prompt(tokens=tokens(CHUNK_TOKENS))).salt == b""
    for prompt in (
        Prompt(tokens=tokens(CHUNK_TOKENS), salt=b"b"),
        Prompt(keys=keys(1), salt=b"a"),
        Prompt(keys=keys(1)),
        Prompt(delta=Delta(base=number, keys=keys(1))),
        Prompt(delta=Delta(base=number, tokens=more), salt=b"b"),
    ):
        with pytest.raises(Denied, match="this token is bound to"):
            resolved(bound, prompt)
