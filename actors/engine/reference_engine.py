"""The reference engine: chunked prefill, greedy decode, and KV that comes from one of three places.

Prefill runs in steps that end at multiples of `chunk_tokens`, wherever it starts. A hit is whole
chunks, so an answer after a hit runs the same steps over the same bits as an answer without one,
and the two must be equal to the last bit of their logits. That is what the demo demands of KV that
went through Penstock.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from penstock.actors.engine.reference_blocks import BlockPool, chunk_digests
from penstock.actors.engine.reference_config import END
from penstock.actors.engine.reference_kv import PagedKv
from penstock.actors.engine.reference_messages import Generation, PrefixFrom, Transfer
from penstock.actors.engine.reference_model import ReferenceModel
from penstock.runtime.errors import CallerError


class PromptRefused(CallerError):
    """Yours: no prompt, no room for an answer, or more of both than the engine was made for."""


class KvConnection(Protocol):
    """What the engine asks of a KV cache outside itself. Blocking; one prompt at a time."""

    def lookup(self, prompt: Sequence[int]) -> int:
        """Tokens of `prompt`, from its start and in whole chunks, whose KV can be loaded now."""

    def load(self, blocks: Sequence[int]) -> int:
        """Bring what the last lookup found into `blocks`; returns the tokens that proved whole."""

    def store(self, prompt: Sequence[int], blocks: Sequence[int]) -> int:
        """Offer `prompt`, whole chunks whose KV lies in `blocks`; returns the bytes written."""


AfterChunk = Callable[[Sequence[int], Sequence[int]], None]
"""Called in the midst of a prefill with the prompt as far as its KV is computed, which ends a chunk, and its blocks."""


def _nothing(computed: Sequence[int], blocks: Sequence[int]) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Fetched:
    tokens: int = 0
    lookup_s: float = 0.0
    load: Transfer = field(default_factory=Transfer)


@dataclass(frozen=True, slots=True)
class _Answer:
    tokens: list[int]
    first_token_at: float
    logits_digest: str


class ReferenceEngine:
    """A model, its paged KV cache, its own prefix cache and, if there is one, its KV connection."""

    def __init__(
        self,
        model: ReferenceModel,
        kv: PagedKv,
        *,
        chunk_tokens: int,
        connection: KvConnection | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if chunk_tokens % kv.size.block_tokens:
            raise CallerError(
                f"chunks of {chunk_tokens} tokens are not whole blocks of {kv.size.block_tokens}"
            )
        self._model, self._kv, self._connection, self._clock = model, kv, connection, clock
        self._chunk_tokens = chunk_tokens
        self._blocks_per_chunk = chunk_tokens // kv.size.block_tokens
        self.pool = BlockPool(blocks=kv.size.blocks, blocks_per_chunk=self._blocks_per_chunk)

    def generate(
        self,
        prompt: Sequence[int],
        *,
        answer_tokens_max: int,
        prefix_from: PrefixFrom,
        after_chunk: AfterChunk = _nothing,
    ) -> Generation:
        """Answer `prompt` greedily with at most `answer_tokens_max` tokens, then store its KV.

        `after_chunk` is called for each chunk that is computed, while the rest of the prompt is not.

        Raises PromptRefused and OutOfBlocks before anything is computed.
        """
        started = self._clock()
        self._check(prompt, answer_tokens_max)
        chunks = chunk_digests(prompt, self._chunk_tokens)
        # The last token is always computed: its logits begin the answer, and no cache holds logits.
        reusable = prompt[: (len(prompt) - 1) // self._chunk_tokens * self._chunk_tokens]
        kept = chunks[: len(reusable) // self._chunk_tokens]
        blocks = self.pool.match(kept if prefix_from is PrefixFrom.OWN_CACHE else [])
        try:
            own_tokens = len(blocks) * self._kv.size.block_tokens
            blocks += self.pool.allocate(
                self._kv.blocks_of(len(prompt) + answer_tokens_max) - len(blocks)
            )
            connection = self._connection if prefix_from is PrefixFrom.PENSTOCK else None
            fetched = self._fetch(connection, reusable, blocks)
            hit = own_tokens + fetched.tokens
            answer = self._compute(prompt, hit, blocks, answer_tokens_max, after_chunk)
            if fetched.tokens == 0:  # what came from outside is not kept: this cache judges it
                self.pool.keep(chunks, blocks)
            return Generation(
                tokens=answer.tokens,
                prompt_tokens=len(prompt),
                hit_tokens=hit,
                ttft_s=answer.first_token_at - started,
                lookup_s=fetched.lookup_s,
                load=fetched.load,
                store=self._store(connection, prompt, hit, blocks),
                logits_digest=answer.logits_digest,
                chunk_digests=[
                    self._kv.digest(part) for part in self._by_chunk(blocks, len(chunks))
                ],
            )
        finally:
            self.pool.release(blocks)

    def _check(self, prompt: Sequence[int], answer_tokens_max: int) -> None:
        if not prompt or answer_tokens_max < 1:
            raise PromptRefused("a prompt and an answer have at least one token each")
        positions = len(prompt) + answer_tokens_max
        if positions > self._model.positions_max:
            raise PromptRefused(
                f"prompt and answer of {positions} tokens exceed the engine's "
                f"{self._model.positions_max}: shorten the prompt or make the engine for more"
            )

    def _fetch(
        self, connection: KvConnection | None, prompt: Sequence[int], blocks: list[int]
    ) -> _Fetched:
        if connection is None:
            return _Fetched()
        started = self._clock()
        found = connection.lookup(prompt)
        looked_up = self._clock()
        if found == 0:
            return _Fetched(lookup_s=looked_up - started)
        loaded = connection.load(blocks[: self._kv.blocks_of(found)])
        load = Transfer(loaded * self._kv.token_bytes, self._clock() - looked_up)
        return _Fetched(tokens=loaded, lookup_s=looked_up - started, load=load)

    def _compute(
        self,
        prompt: Sequence[int],
        first: int,
        blocks: list[int],
        answer_tokens_max: int,
        after_chunk: AfterChunk,
    ) -> _Answer:
        """Prefill `prompt` from position `first` on, then decode."""
        sequence = self._kv.sequence(blocks)
        digest = hashlib.sha256()
        while first < len(prompt):
            step = prompt[first : (first // self._chunk_tokens + 1) * self._chunk_tokens]
            logits = self._model.forward(torch.tensor(step), first=first, kv=sequence)
            first += len(step)
            if first < len(prompt):
                after_chunk(prompt[:first], blocks[: self._kv.blocks_of(first)])
        tokens = [int(logits.argmax())]
        first_token_at = self._clock()
        digest.update(logits.numpy().data)
        while len(tokens) < answer_tokens_max and tokens[-1] != END:
            logits = self._model.forward(torch.tensor(tokens[-1:]), first=first, kv=sequence)
            first += 1
            tokens.append(int(logits.argmax()))
            digest.update(logits.numpy().data)
        return _Answer(tokens, first_token_at, digest.hexdigest())

    def _store(
        self, connection: KvConnection | None, prompt: Sequence[int], hit: int, blocks: list[int]
    ) -> Transfer:
        """Offer the prompt's whole chunks; a prefill would round the answer's otherwise."""
        whole = len(prompt) // self._chunk_tokens * self._chunk_tokens
        if connection is None or whole == hit:
            return Transfer()
        started = self._clock()
        stored_bytes = connection.store(prompt[:whole], blocks[: self._kv.blocks_of(whole)])
        return Transfer(stored_bytes, self._clock() - started)

    def _by_chunk(self, blocks: list[int], chunks: int) -> list[list[int]]:
        size = self._blocks_per_chunk
        return [blocks[index * size : (index + 1) * size] for index in range(chunks)]
