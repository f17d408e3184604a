"""What a reference engine's worker is asked and what it answers, one JSON object a line."""

from dataclasses import dataclass
from enum import Enum

import msgspec


class PrefixFrom(Enum):
    """Where the engine may take the KV of a prompt's beginning from."""

    NOWHERE = "nowhere"  # compute all of it
    OWN_CACHE = "own_cache"  # blocks this engine kept
    PENSTOCK = "penstock"  # the KV connection, and nothing this engine kept


@dataclass(frozen=True, slots=True)
class Transfer:
    """KV bytes that crossed the KV connection, and how long that took."""

    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """An answer and what it cost."""

    tokens: list[int]
    prompt_tokens: int
    hit_tokens: int  # not computed: taken from where PrefixFrom said
    ttft_s: float  # from the request to the first token: lookup, load and prefill
    lookup_s: float
    load: Transfer
    store: Transfer  # after the answer; not part of ttft_s
    logits_digest: str  # of the logits of every answer token
    chunk_digests: list[str]  # of the KV of the prompt's whole chunks, as it lies in this engine


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Answer `text` with at most `answer_tokens_max` tokens."""

    text: str
    answer_tokens_max: int
    prefix_from: PrefixFrom


class WaitStored(msgspec.Struct, frozen=True, tag=True):
    """Wait until the node's stores have all whole chunks of `text`, which this worker has stored."""

    text: str
    within_s: float


class WaitAttached(msgspec.Struct, frozen=True, tag=True):
    """Wait until the node answers; it may have been started anew."""

    within_s: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A worker's first line: its model is made and the node, if one was named, is attached."""

    weights_digest: str
    chunk_tokens: int
    kv_token_bytes: int


class Generated(msgspec.Struct, frozen=True, tag=True):
    """The answer to Generate."""

    generation: Generation


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer to WaitStored and WaitAttached."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """What was asked cannot be done; the worker goes on."""

    problem: str


Request = Generate | WaitStored | WaitAttached
Answer = Ready | Generated | Done | Refused
