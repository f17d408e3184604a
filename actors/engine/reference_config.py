"""Shapes of the reference model and its tokens: what can be known without importing torch.

The reference engine is a decoder-only transformer, small enough for a laptop's cores and real
enough that prefill costs what prefill costs: every size below is a plain Llama-like stack (RoPE,
grouped-query attention, RMSNorm, SwiGLU).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

BEGIN = 256  # token ids 0..255 are bytes of UTF-8, then the specials
END = 257
VOCABULARY = 264  # rounded up; 258..263 mean nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The numbers that define one size of the reference model."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int  # divides heads: each K/V head serves heads / kv_heads query heads
    ffn: int  # width of the SwiGLU layer
    head_size: int = 64
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings and norms included."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        return self.layers * layer + (2 * VOCABULARY + 1) * self.hidden

    def kv_bytes_per_token(self, *, element_bytes: int) -> int:
        """Bytes of keys and values that one token leaves in the cache, over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_size * element_bytes


MODEL_SIZES: Mapping[str, ModelShape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            ModelShape(name="1m", layers=4, hidden=128, heads=4, kv_heads=2, ffn=448, head_size=32),
            ModelShape(name="5m", layers=6, hidden=256, heads=4, kv_heads=2, ffn=768),
            ModelShape(name="30m", layers=10, hidden=512, heads=8, kv_heads=4, ffn=1408),
            ModelShape(name="100m", layers=16, hidden=768, heads=12, kv_heads=4, ffn=2048),
            ModelShape(name="250m", layers=21, hidden=1024, heads=16, kv_heads=4, ffn=3072),
        )
    }
)


def encode(text: str) -> list[int]:
    """Tokens of `text`: BEGIN, then one token for each byte of its UTF-8."""
    return [BEGIN, *text.encode()]


def decode(tokens: list[int]) -> str:
    """Text of `tokens`; specials are left out, bytes that are not UTF-8 become U+FFFD."""
    return bytes(token for token in tokens if token < BEGIN).decode(errors="replace")
