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


class Push(msgspec.Struct, frozen=True, tag=True):
    """Compute `text`, and have each of its chunks pushed to the node `target` as soon as it is computed."""

    text: str
    target: str
    request_id: str
    within_s: float
    stand_still_after: int = (
        0  # chunks; then nothing is computed until the push is over. 0: goes on
    )


class PushAgain(msgspec.Struct, frozen=True, tag=True):
    """Have `text`, which was computed before and is in the node's memory, pushed: nothing is computed meanwhile."""

    text: str
    target: str
    request_id: str
    within_s: float


class Expect(msgspec.Struct, frozen=True, tag=True):
    """Expect that `text` is pushed: the next Generate from PENSTOCK takes what has come of it. Answered at once."""

    text: str
    request_id: str
    within_s: float


class Watch(msgspec.Struct, frozen=True, tag=True):
    """Wait until so much of what is expected has come, or no more will."""

    chunks: int
    within_s: float


class Abandon(msgspec.Struct, frozen=True, tag=True):
    """Give up what is expected, and let go of what has come of it."""


class LookAtPool(msgspec.Struct, frozen=True, tag=True):
    """Tell what is free of the node's memory for what others push."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A worker's first line: its model is made and the node, if one was named, is attached."""

    weights_digest: str
    chunk_tokens: int
    kv_token_bytes: int


class Generated(msgspec.Struct, frozen=True, tag=True):
    """The answer to Generate."""

    generation: Generation


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer to WaitStored, WaitAttached, Expect and Abandon."""


class Pushed(msgspec.Struct, frozen=True, tag=True):
    """The answer to Push and PushAgain. Times are of the monotonic clock, which all processes of a machine share."""

    generation: Generation | None  # of Push: one token
    begun_s: float
    first_chunk_s: float  # when the first chunk was there to be pushed
    prefilled_s: float  # when the prompt was computed: its first token
    over_s: float  # when all of it was known to be verified at the target, or not to be any more
    bytes: int  # sent
    held_bytes: int  # not sent: the target had it
    failure: str  # empty: all of it is there
    is_let_go: bool  # the failure is that nobody there wants it any more, or needs the rest


class Watched(msgspec.Struct, frozen=True, tag=True):
    """The answer to Watch."""

    hit_chunks: int
    total_chunks: int
    is_final: bool
    shortfall: str  # why it is final below the total; NONE


class Pool(msgspec.Struct, frozen=True, tag=True):
    """The answer to LookAtPool: bytes."""

    bytes: int
    free_bytes: int
    quarantined_bytes: int  # that a node which is gone may still write to


class Refused(msgspec.Struct, frozen=True, tag=True):
    """What was asked cannot be done; the worker goes on."""

    problem: str


PdRequest = Push | PushAgain | Expect | Watch | Abandon | LookAtPool
Request = Generate | WaitStored | WaitAttached | PdRequest
Answer = Ready | Generated | Done | Pushed | Watched | Pool | Refused
