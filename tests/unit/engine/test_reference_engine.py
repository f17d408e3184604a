"""The reference engine: every way to get a prefix's KV leads to the same bits, and each fault to
the right ones."""

from collections.abc import Sequence

import pytest
import torch

from penstock.actors.engine.reference_blocks import OutOfBlocks, chunk_digests
from penstock.actors.engine.reference_config import MODEL_SIZES
from penstock.actors.engine.reference_engine import (
    KvConnection,
    PromptRefused,
    ReferenceEngine,
)
from penstock.actors.engine.reference_kv import PagedKv
from penstock.actors.engine.reference_messages import Generation, PrefixFrom
from penstock.actors.engine.reference_model import ReferenceModel
from penstock.runtime.errors import CallerError

CHUNK = 64
TINY = MODEL_SIZES["1m"]
MODEL = ReferenceModel(TINY, seed=5, positions_max=512)


class DictConnection:
    """A KV connection with a dict behind it, shared by engines of any layout; it can lose what it
    promised."""

    def __init__(self, kv: PagedKv, shelf: dict[bytes, torch.Tensor]) -> None:
        self._kv, self._shelf = kv, shelf
        self._found: list[bytes] = []
        self.lose_from: int | None = None  # the chunk at which a load breaks off
        self.lookups: list[int] = []

    def lookup(self, prompt: Sequence[int]) -> int:
        self._found = []
        self.lookups.append(len(prompt))
        for digest in chunk_digests(prompt, CHUNK):
            if digest not in self._shelf:
                break
            self._found.append(digest)
        return len(self._found) * CHUNK

    def load(self, blocks: Sequence[int]) -> int:
        sequence, whole = self._kv.sequence(blocks), self._found[: self.lose_from]
        for index, digest in enumerate(whole):
            for layer, (keys, values) in enumerate(self._shelf[digest]):
                sequence.write(layer, index * CHUNK, keys, values)
        return len(whole) * CHUNK

    def store(self, prompt: Sequence[int], blocks: Sequence[int]) -> int:
        sequence = self._kv.sequence(blocks)
        layers = [sequence.read(layer, len(prompt)) for layer in range(self._kv.size.layers)]
        every = torch.stack([torch.stack(pair) for pair in layers]).transpose(2, 3)
        for index, digest in enumerate(chunk_digests(prompt, CHUNK)):
            self._shelf[digest] = every[:, :, index * CHUNK : (index + 1) * CHUNK]
        return len(prompt) * self._kv.token_bytes


def paged(
    preset: str = "NL_X_TWO_NB_BS_NH_HS", *, block_tokens: int = 16, blocks: int = 64
) -> PagedKv:
    return PagedKv(
        TINY, preset=preset, blocks=blocks, block_tokens=block_tokens, dtype=torch.bfloat16
    )


def engine(kv: PagedKv, connection: KvConnection | None = None) -> ReferenceEngine:
    return ReferenceEngine(MODEL, kv, chunk_tokens=CHUNK, connection=connection)


def tokens(seed: int, length: int) -> list[int]:
    drawn = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))
    return [int(token) for token in drawn]


DOCUMENT = tokens(1, 150)
QUESTION = DOCUMENT + tokens(
    2, 50
)  # 200 tokens: three whole chunks, of which two are the document's
OTHER_QUESTION = DOCUMENT + tokens(3, 41)


def answer(
    source: ReferenceEngine, prompt: Sequence[int], prefix_from: PrefixFrom = PrefixFrom.NOWHERE
) -> Generation:
    generation = source.generate(prompt, answer_tokens_max=8, prefix_from=prefix_from)
    source.pool.validate()
    return generation


def bits(generation: Generation) -> tuple[list[int], str, list[str]]:
    return generation.tokens, generation.logits_digest, generation.chunk_digests


def test_an_answer_after_prefix_reuse_equals_the_answer_without() -> None:
    """Goal: reuse of kept blocks changes no bit. Method: another question about a document already
    read."""
    reader = engine(paged())
    answer(reader, QUESTION)
    reused = answer(reader, OTHER_QUESTION, PrefixFrom.OWN_CACHE)
    assert (reused.prompt_tokens, reused.hit_tokens) == (191, 128)
    assert bits(reused) == bits(answer(engine(paged()), OTHER_QUESTION))


def test_each_chunk_is_told_of_as_soon_as_it_is_computed() -> None:
    """Goal: what is told of is not computed over, and the last chunk is left out if the prompt ends with it."""
    source = engine(paged())
    told: list[tuple[int, int]] = []
    for prompt in (QUESTION, QUESTION[: 2 * CHUNK]):
        told.clear()
        source.generate(
            prompt,
            answer_tokens_max=1,
            prefix_from=PrefixFrom.NOWHERE,
            after_chunk=lambda computed, blocks: told.append((len(computed), len(blocks))),
        )
        chunks = (len(prompt) - 1) // CHUNK
        assert [tokens for tokens, _ in told] == [CHUNK * (n + 1) for n in range(chunks)]
        assert [blocks * 16 for _, blocks in told] == [tokens for tokens, _ in told]


def test_kv_from_another_engine_in_another_layout_gives_the_same_answer() -> None:
    """Goal: KV through a connection equals KV computed here, to the last bit."""
    shelf: dict[bytes, torch.Tensor] = {}
    home_kv, away_kv = paged(), paged("NL_X_NB_TWO_NH_BS_HS", block_tokens=32)
    home = engine(home_kv, DictConnection(home_kv, shelf))
    away = engine(away_kv, DictConnection(away_kv, shelf))
    cold = answer(home, QUESTION, PrefixFrom.PENSTOCK)
    assert cold.hit_tokens == 0
    assert cold.store.bytes == 3 * CHUNK * home_kv.token_bytes
    warm = answer(away, OTHER_QUESTION, PrefixFrom.PENSTOCK)
    assert (warm.hit_tokens, warm.load.bytes) == (128, 128 * home_kv.token_bytes)
    assert warm.chunk_digests == cold.chunk_digests[:2]
    assert bits(warm) == bits(answer(home, OTHER_QUESTION, PrefixFrom.OWN_CACHE))


def test_a_load_that_breaks_off_is_computed_from_there() -> None:
    """Goal: a promise not kept costs time, never a token."""
    shelf: dict[bytes, torch.Tensor] = {}
    kv = paged()
    connection = DictConnection(kv, shelf)
    reader = engine(kv, connection)
    cold = answer(reader, QUESTION, PrefixFrom.PENSTOCK)
    connection.lose_from = 1
    warm = answer(reader, QUESTION, PrefixFrom.PENSTOCK)
    assert warm.hit_tokens == CHUNK
    assert bits(warm) == bits(cold)


def test_wrong_kv_does_not_go_unnoticed() -> None:
    """Goal: the demo's comparison can fail. Method: exchange two stored chunks; answer and digests
    must differ."""
    shelf: dict[bytes, torch.Tensor] = {}
    kv = paged()
    reader = engine(kv, DictConnection(kv, shelf))
    cold = answer(reader, QUESTION, PrefixFrom.PENSTOCK)
    first, second, _ = chunk_digests(QUESTION, CHUNK)
    shelf[first], shelf[second] = shelf[second], shelf[first]
    warm = answer(reader, QUESTION, PrefixFrom.PENSTOCK)
    assert warm.hit_tokens == 3 * CHUNK
    assert warm.logits_digest != cold.logits_digest
    assert warm.chunk_digests != cold.chunk_digests


def test_a_prompt_of_whole_chunks_still_computes_its_last_one() -> None:
    """Goal: the last logits are computed, the rest is a hit, and nothing is stored twice."""
    shelf: dict[bytes, torch.Tensor] = {}
    kv = paged()
    connection = DictConnection(kv, shelf)
    reader = engine(kv, connection)
    prompt = tokens(4, 2 * CHUNK)
    cold = answer(reader, prompt, PrefixFrom.PENSTOCK)
    warm = answer(reader, prompt, PrefixFrom.PENSTOCK)
    assert (warm.hit_tokens, bits(warm)) == (CHUNK, bits(cold))
    assert connection.lookups == [CHUNK, CHUNK]


def test_refusals_leave_the_engine_as_it_was() -> None:
    """Goal: what cannot be answered is refused in words, and takes no block with it."""
    small = engine(paged(blocks=8))
    with pytest.raises(OutOfBlocks, match="larger KV cache"):
        answer(small, QUESTION)
    with pytest.raises(PromptRefused, match="shorten the prompt"):
        answer(small, tokens(1, 505))
    with pytest.raises(PromptRefused, match="at least one token"):
        answer(small, [])
    assert small.pool.blocks_free == 8
    with pytest.raises(CallerError, match="not whole blocks of 24"):
        engine(paged(block_tokens=24))
