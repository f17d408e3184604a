"""The reference model: a decoder-only transformer on torch CPU, written to be read.

Arithmetic is float32; keys and values are rounded to the cache's dtype when they are written, and
attention reads only what the cache holds. So a token's KV depends on the tokens before it and on
the boundaries of the prefill steps, never on whether the earlier KV was computed a moment ago,
kept, or loaded: for equal boundaries, thread counts and machines the bits are equal.
"""

import hashlib
import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from penstock.actors.engine.reference_config import VOCABULARY, ModelShape

# Random weights have no reason to look far back. Sharper scores make each token attend to a few
# others anywhere in the prompt, so that one wrong chunk of KV shows in the answer instead of
# drowning in an average over thousands of tokens.
_SCORE_SCALE = 2.0


class SequenceKv(Protocol):
    """The keys and values of one sequence, wherever they lie."""

    def write(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """Put `keys`, `values` [tokens, kv_heads, head_size] at positions first, first + 1, ..."""

    def read(self, layer: int, count: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `count` positions, [kv_heads, count, head_size], float32."""


class _Layer:
    """Weights of one transformer layer, each [out, in]."""

    def __init__(self, shape: ModelShape, generator: torch.Generator) -> None:
        hidden, query = shape.hidden, shape.heads * shape.head_size
        key_value = shape.kv_heads * shape.head_size
        depth = 1.0 / math.sqrt(2 * shape.layers)  # keeps the residual stream's variance near 1
        self.attention_norm = torch.ones(hidden)
        self.query = _random(generator, query, hidden, scale=_SCORE_SCALE)
        self.key = _random(generator, key_value, hidden, scale=_SCORE_SCALE)
        self.value = _random(generator, key_value, hidden)
        self.attention_out = _random(generator, hidden, query, scale=4 * depth)
        self.ffn_norm = torch.ones(hidden)
        self.gate = _random(generator, shape.ffn, hidden)
        self.up = _random(generator, shape.ffn, hidden)
        self.down = _random(generator, hidden, shape.ffn, scale=2 * depth)

    def weights(self) -> tuple[Tensor, ...]:
        return (
            *(self.attention_norm, self.query, self.key, self.value, self.attention_out),
            *(self.ffn_norm, self.gate, self.up, self.down),
        )


class ReferenceModel:
    """A transformer with random weights drawn from a seed."""

    def __init__(self, shape: ModelShape, *, seed: int, positions_max: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.shape = shape
        self._embedding = torch.randn(VOCABULARY, shape.hidden, generator=generator)
        self._layers = [_Layer(shape, generator) for _ in range(shape.layers)]
        self._final_norm = torch.ones(shape.hidden)
        self._head = _random(generator, VOCABULARY, shape.hidden)
        self._cosine, self._sine = _rotations(shape, positions_max)

    @property
    def positions_max(self) -> int:
        """Longest sequence, in tokens, that the model was made for."""
        return self._cosine.shape[0]

    def weights_digest(self) -> str:
        """SHA-256 of every weight's bytes: the weights' identity in the namespace."""
        digest = hashlib.sha256()
        weights = [self._embedding, *(w for layer in self._layers for w in layer.weights())]
        for weight in (*weights, self._final_norm, self._head):
            digest.update(weight.numpy().data)
        return digest.hexdigest()

    @torch.inference_mode()
    def forward(self, tokens: Tensor, *, first: int, kv: SequenceKv) -> Tensor:
        """Run `tokens` (int64, [tokens]) as positions first, first + 1, ... of a sequence.

        Their KV is written to `kv`, which must hold all positions before `first`. Returns the
        logits after the last of them, [VOCABULARY].
        """
        end = first + tokens.shape[0]
        assert 0 <= first < end <= self.positions_max, (first, end, self.positions_max)
        hidden = self._embedding[tokens]
        mask = _causal_mask(first, end)
        for index, layer in enumerate(self._layers):
            normed = self._norm(hidden, layer.attention_norm)
            query = self._rotate(_heads(normed, layer.query, self.shape), first)
            key = self._rotate(_heads(normed, layer.key, self.shape), first)
            kv.write(index, first, key, _heads(normed, layer.value, self.shape))
            mixed = _attend(query, *kv.read(index, end), mask)
            hidden = hidden + functional.linear(mixed, layer.attention_out)
            normed = self._norm(hidden, layer.ffn_norm)
            gated = functional.silu(functional.linear(normed, layer.gate))
            hidden = hidden + functional.linear(
                gated * functional.linear(normed, layer.up), layer.down
            )
        return functional.linear(self._norm(hidden[-1], self._final_norm), self._head)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self.shape.norm_epsilon)

    def _rotate(self, heads: Tensor, first: int) -> Tensor:
        """Rotary position embedding (Su et al., 2021) of [tokens, heads, head_size], by halves."""
        rows = slice(first, first + heads.shape[0])
        cosine, sine = self._cosine[rows, None], self._sine[rows, None]
        low, high = heads.chunk(2, dim=-1)
        return torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention.

    query [tokens, heads, size]; keys and values [kv_heads, count, size]; mask [tokens, count].
    """
    mixed = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
    )
    return mixed[0].transpose(0, 1).flatten(1)


def _causal_mask(first: int, end: int) -> Tensor | None:
    """True where the query at position first + row may see the key at position column."""
    if end - first == 1:
        return None  # one query sees all
    return torch.arange(end)[None, :] <= torch.arange(first, end)[:, None]


def _heads(hidden: Tensor, weight: Tensor, shape: ModelShape) -> Tensor:
    return functional.linear(hidden, weight).view(hidden.shape[0], -1, shape.head_size)


def _random(generator: torch.Generator, rows: int, columns: int, *, scale: float = 1.0) -> Tensor:
    return torch.randn(rows, columns, generator=generator) * (scale / math.sqrt(columns))


def _rotations(shape: ModelShape, positions_max: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, [positions_max, head_size / 2].

    Angles are made in float64: float32 has no room for a large position and its fraction.
    """
    half = shape.head_size // 2
    frequencies = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(positions_max, dtype=torch.float64)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()
