"""The reference model against definitions written out in full, and what it promises about bits."""

import math

import pytest
import torch
from torch import Tensor

from penstock.actors.engine.reference_config import (
    BEGIN,
    MODEL_SIZES,
    VOCABULARY,
    ModelShape,
    decode,
    encode,
)
from penstock.actors.engine.reference_kv import PAGINGS, PagedKv
from penstock.actors.engine.reference_model import ReferenceModel

TINY = MODEL_SIZES["1m"]


def paged(
    shape: ModelShape, preset: str = "NL_X_TWO_NB_BS_NH_HS", block_tokens: int = 16
) -> PagedKv:
    return PagedKv(shape, preset=preset, blocks=64, block_tokens=block_tokens, dtype=torch.bfloat16)


def prompt(length: int) -> Tensor:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length))


class PlainKv:
    """KV without pages, in float64 and without rounding: what the paged one is compared with."""

    def __init__(self, layers: int) -> None:
        self._keys: list[list[Tensor]] = [[] for _ in range(layers)]
        self._values: list[list[Tensor]] = [[] for _ in range(layers)]

    def write(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        assert sum(len(part) for part in self._keys[layer]) == first
        self._keys[layer].append(keys)
        self._values[layer].append(values)

    def read(self, layer: int, count: int) -> tuple[Tensor, Tensor]:
        keys, values = torch.cat(self._keys[layer]), torch.cat(self._values[layer])
        assert len(keys) == count
        return keys.transpose(0, 1), values.transpose(0, 1)


def naive_forward(model: ReferenceModel, tokens: Tensor) -> Tensor:
    """The model by its textbook definition: float64, one position, head and key at a time where it
    matters."""
    shape = model.shape
    hidden = model._embedding[tokens].double()
    for layer in model._layers:
        weights = [weight.double() for weight in layer.weights()]
        norm, query_w, key_w, value_w, out_w, ffn_norm, gate_w, up_w, down_w = weights
        normed = naive_norm(hidden, norm, shape)
        query, key = naive_rope(normed @ query_w.T, shape), naive_rope(normed @ key_w.T, shape)
        value = (normed @ value_w.T).reshape(len(tokens), shape.kv_heads, shape.head_size)
        mixed = torch.zeros(len(tokens), shape.heads, shape.head_size, dtype=torch.float64)
        for position in range(len(tokens)):
            for head in range(shape.heads):
                shared = head // (shape.heads // shape.kv_heads)
                scores = key[: position + 1, shared] @ query[position, head]
                chances = torch.softmax(scores / math.sqrt(shape.head_size), dim=0)
                mixed[position, head] = chances @ value[: position + 1, shared]
        hidden = hidden + mixed.reshape(len(tokens), -1) @ out_w.T
        normed = naive_norm(hidden, ffn_norm, shape)
        gate = normed @ gate_w.T
        hidden = hidden + (gate * torch.sigmoid(gate) * (normed @ up_w.T)) @ down_w.T
    return naive_norm(hidden[-1], model._final_norm.double(), shape) @ model._head.double().T


def naive_norm(hidden: Tensor, weight: Tensor, shape: ModelShape) -> Tensor:
    return hidden / torch.sqrt((hidden**2).mean(-1, keepdim=True) + shape.norm_epsilon) * weight


def naive_rope(flat: Tensor, shape: ModelShape) -> Tensor:
    heads = flat.reshape(len(flat), -1, shape.head_size).clone()
    half = shape.head_size // 2
    for position in range(len(flat)):
        for index in range(half):
            angle = position * shape.rope_theta ** (-index / half)
            low, high = heads[position, :, index].clone(), heads[position, :, index + half].clone()
            heads[position, :, index] = low * math.cos(angle) - high * math.sin(angle)
            heads[position, :, index + half] = high * math.cos(angle) + low * math.sin(angle)
    return heads


def test_the_model_agrees_with_its_textbook_definition() -> None:
    """Goal: RoPE, grouped-query attention, RMSNorm and SwiGLU are what they are called.
    Method: the same weights through loops in float64; KV unrounded. The scales differ by about
    1e-5."""
    model = ReferenceModel(TINY, seed=3, positions_max=64)
    tokens = prompt(37)
    logits = model.forward(tokens, first=0, kv=PlainKv(TINY.layers))
    torch.testing.assert_close(logits.double(), naive_forward(model, tokens), rtol=0, atol=2e-4)


@pytest.mark.parametrize("preset", PAGINGS)
def test_attention_over_pages_is_attention(preset: str) -> None:
    """Goal: paging changes nothing but the rounding of K and V to the cache's dtype.
    Method: scattered blocks in every layout; KV without pages, rounded alike, must give the same
    bits."""

    class RoundedKv(PlainKv):
        def write(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
            super().write(layer, first, keys.bfloat16().float(), values.bfloat16().float())

        def read(self, layer: int, count: int) -> tuple[Tensor, Tensor]:
            keys, values = super().read(layer, count)
            return keys.contiguous(), values.contiguous()

    model = ReferenceModel(TINY, seed=3, positions_max=256)
    sequence, plain = paged(TINY, preset).sequence([7, 0, 63, 21, 5]), RoundedKv(TINY.layers)
    tokens = prompt(70)
    for first, end in ((0, 32), (32, 64), (64, 69), (69, 70)):
        here = model.forward(tokens[first:end], first=first, kv=sequence)
        there = model.forward(tokens[first:end], first=first, kv=plain)
        assert torch.equal(here, there), (first, end)


def test_prefill_in_steps_is_prefill_at_once_up_to_rounding() -> None:
    """Goal: steps change the order of sums only. Method: KV in float32 and no pages, so that
    nothing else can differ."""
    model = ReferenceModel(TINY, seed=3, positions_max=512)
    tokens = prompt(300)
    whole = model.forward(tokens, first=0, kv=PlainKv(TINY.layers))
    stepwise = PlainKv(TINY.layers)
    for first in range(0, 300, 64):
        logits = model.forward(tokens[first : first + 64], first=first, kv=stepwise)
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-3)


def test_equal_seeds_give_equal_weights_and_answers_and_other_seeds_do_not() -> None:
    """Goal: two workers that were told the same seed hold the same model, and the digest tells."""
    one, same, other = (ReferenceModel(TINY, seed=seed, positions_max=64) for seed in (1, 1, 2))
    assert one.weights_digest() == same.weights_digest() != other.weights_digest()
    tokens = prompt(50)
    logits = [m.forward(tokens, first=0, kv=PlainKv(TINY.layers)) for m in (one, same, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_the_first_token_of_a_long_prompt_reaches_the_last_logits() -> None:
    """Goal: an answer depends on all of its KV, so that equal answers mean something."""
    model = ReferenceModel(TINY, seed=3, positions_max=1024)
    tokens = prompt(1000)
    changed = tokens.clone()
    changed[0] = (changed[0] + 1) % 256
    before, after = (model.forward(t, first=0, kv=PlainKv(TINY.layers)) for t in (tokens, changed))
    assert (before - after).abs().max() > 1e-3


def test_parameter_counts_are_what_the_names_say() -> None:
    """Goal: --model-size 30m is 30 million weights, counted in a real model."""
    model = ReferenceModel(TINY, seed=0, positions_max=8)
    weights = [model._embedding, model._head, model._final_norm]
    weights += [weight for layer in model._layers for weight in layer.weights()]
    assert sum(weight.numel() for weight in weights) == TINY.parameters
    for name, shape in MODEL_SIZES.items():
        millions = int(name.removesuffix("m"))
        assert abs(shape.parameters / 1e6 - millions) <= 0.2 * millions, name
        assert shape.heads % shape.kv_heads == 0


def test_tokens_are_bytes_and_back() -> None:
    """Goal: any text survives; specials and broken UTF-8 do not raise."""
    text = "Zürich \N{MOUNTAIN}\n"
    assert encode(text)[0] == BEGIN
    assert max(encode(text)) < VOCABULARY
    assert decode(encode(text)) == text
    assert decode([0xFF, 300, ord("a")]) == "\ufffda"
