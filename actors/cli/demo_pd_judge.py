"""What the runs of `penstock demo --pd` came to: their numbers, and what must be true of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from penstock.actors.engine.reference_messages import Generation, Pool, Pushed, Watched


class Scene(Enum):
    """Under what a prompt is handed over."""

    PLAIN = "plain"
    KILLED = "killed"  # kill -9 of the prefill node in the midst of the push
    DELAYED = "delayed"  # some packets come late


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """One prompt, computed at one node and answered at the other. Times are of the machine's monotonic clock."""

    scene: Scene
    document: int
    truth: Generation  # by one engine that computed all of it
    pushed: Pushed  # while it was computed
    alone: (
        Pushed | None
    )  # the same bytes again, while nothing was computed; None: the node was killed
    last: Watched  # what was left to load at the decode node
    decoded: Generation
    decode_asked_s: float
    pool: Pool  # of the decode node, after all of it
    learned_s: float = 0.0  # from kill -9 to when the decode engine knew that no more will come

    @property
    def prefill_ms(self) -> float:
        """To the prefill engine's first token."""
        return (self.pushed.prefilled_s - self.pushed.begun_s) * 1e3

    @property
    def transfer_ms(self) -> float:
        """All of the push by itself, until the receiver has verified it; 0 where there was none."""
        return 0.0 if self.alone is None else (self.alone.over_s - self.alone.begun_s) * 1e3

    @property
    def tail_ms(self) -> float:
        """What of the push was left to do when the prompt was computed."""
        return max(0.0, self.pushed.over_s - self.pushed.prefilled_s) * 1e3

    @property
    def overlap_percent(self) -> float:
        """The part of the transfer that nobody waited for, as the prompt was being computed meanwhile."""
        return overlap_percent(transfer_ms=self.transfer_ms, tail_ms=self.tail_ms)

    @property
    def decode_start_ms(self) -> float:
        """From the request at the prefill engine to the decode engine's first token."""
        return (self.decode_asked_s + self.decoded.ttft_s - self.pushed.begun_s) * 1e3


def overlap_percent(*, transfer_ms: float, tail_ms: float) -> float:
    """0 where all of a transfer, or more than it takes by itself, came after the prefill; 100 where nothing did."""
    if transfer_ms <= 0:
        return 0.0
    return 100 * min(1.0, max(0.0, 1 - tail_ms / transfer_ms))


def problems(one: Handover, *, chunk_tokens: int, learns_within_s: float) -> Iterator[str]:
    """What is not as it has to be, a sentence each; none: all is well."""
    shared = (one.decoded.prompt_tokens - 1) // chunk_tokens * chunk_tokens
    if one.decoded.tokens != one.truth.tokens:
        yield "the answer differs from that of a single engine"
    elif one.decoded.logits_digest != one.truth.logits_digest:
        yield "the logits differ from those of a single engine"
    if one.decoded.chunk_digests != one.truth.chunk_digests:
        yield "the KV differs from what a single engine computes"
    if one.pool.free_bytes != one.pool.bytes:
        left = one.pool.bytes - one.pool.free_bytes
        yield f"{left} bytes of the decode node's memory for pushes are not free again"
    if one.scene is Scene.KILLED:
        yield from _problems_of_kill(one, shared, learns_within_s)
        return
    for push in filter(None, (one.pushed, one.alone)):
        # Whoever has all of it may let go before the sender hears that it was verified.
        if push.failure and not push.is_let_go:
            yield f"the push failed: {push.failure}"
        if push.held_bytes:
            yield f"{push.held_bytes} bytes were not pushed, as the decode node had them before"
    if one.decoded.hit_tokens != shared:
        yield f"{one.decoded.hit_tokens} of {shared} tokens came over; the rest was computed again"


def _problems_of_kill(one: Handover, shared: int, learns_within_s: float) -> Iterator[str]:
    if not one.pushed.failure:
        yield "the push was whole although its node was killed in the midst of it"
    if not 0 < one.decoded.hit_tokens < shared:
        yield f"{one.decoded.hit_tokens} of {shared} tokens came over: that is not the midst"
    if not one.last.is_final or one.learned_s > learns_within_s:
        yield f"the decode engine learned of it after {one.learned_s:.1f} s, not {learns_within_s:g} s"
