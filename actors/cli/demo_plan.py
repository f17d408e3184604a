"""Who is asked what, in which order, and what must be true of the answers. Pure: no process is
touched here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from penstock.actors.engine.reference_messages import Generation, PrefixFrom

WORKERS = 2


class Phase(Enum):
    """Why a question is asked."""

    COLD = "cold"  # nobody has read the document: all of it is computed, then stored
    WARM = "warm"  # its KV comes from Penstock, on either worker
    DISK = "disk"  # the node was killed and started again: its KV comes from disk
    CHECK = (
        "check"  # its KV comes from the home worker's own prefix cache: the answer to compare with
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """One question about one document to one worker."""

    phase: Phase
    round: int  # counted from 1; the restart and the check have rounds of their own, after the last
    document: int
    question: int
    worker: int

    @property
    def is_reuse(self) -> bool:
        """Whether the document's KV is to come from Penstock."""
        return self.phase in (Phase.WARM, Phase.DISK)

    @property
    def prefix_from(self) -> PrefixFrom:
        """Where the worker may take the prefix from."""
        return PrefixFrom.OWN_CACHE if self.phase is Phase.CHECK else PrefixFrom.PENSTOCK


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what came back."""

    ask: Ask
    generation: Generation


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found. Each problem is a sentence; none means that all is well."""

    kv_bytes_verified: int  # loaded from Penstock and equal, bit by bit, to what was written
    tokens_equal: bool
    problems: tuple[str, ...]


def home(document: int) -> int:
    """The worker that reads `document` first."""
    return document % WORKERS


def plan(*, documents: int, questions: int, rounds: int) -> list[Ask]:
    """Round 1 cold, rounds 2 to `rounds` warm, one after a restart, then the check.

    In warm rounds a document's questions alternate between the workers, beginning with the one that
    has never seen the document, and change places from round to round. After the restart that
    worker has a document's KV from disk; then it is in memory again, and the other one asks.
    """
    assert min(documents, questions, rounds - 1) >= 1, (documents, questions, rounds)
    pairs = [(document, question) for document in range(documents) for question in range(questions)]
    cold = [Ask(Phase.COLD, 1, document, 0, home(document)) for document in range(documents)]
    warm = [
        Ask(Phase.WARM, turn, document, question, (home(document) + turn + question - 1) % WORKERS)
        for turn in range(2, rounds + 1)
        for document, question in pairs
    ]
    restarted = [
        ask
        for document in range(documents)
        for ask in (
            Ask(Phase.DISK, rounds + 1, document, 0, (home(document) + 1) % WORKERS),
            Ask(Phase.WARM, rounds + 1, document, questions - 1, home(document)),
        )
    ]
    check = [
        Ask(Phase.CHECK, rounds + 2, document, question, home(document))
        for document, question in pairs
    ]
    return cold + warm + restarted + check


def judge(asked: Sequence[Asked], *, chunk_tokens: int, kv_token_bytes: int) -> Verdict:
    """Compare every answer with that of the home worker, which kept the KV it computed itself.

    KV: the digests of all chunks, loaded ones included, as they lie in the worker after the answer.
    Answers: the tokens and the logits of each.
    """
    truths = {
        (one.ask.document, one.ask.question): one.generation
        for one in asked
        if one.ask.phase is Phase.CHECK
    }
    problems: list[str] = []
    verified, tokens_equal = 0, True
    for one in asked:
        generation, truth = one.generation, truths[one.ask.document, one.ask.question]
        hit_chunks = generation.hit_tokens // chunk_tokens
        if one.ask.is_reuse:
            same = zip(generation.chunk_digests[:hit_chunks], truth.chunk_digests, strict=False)
            verified += sum(a == b for a, b in same) * chunk_tokens * kv_token_bytes
        tokens_equal &= generation.tokens == truth.tokens
        problems += [f"{_where(one.ask)}: {problem}" for problem in _problems(one, truth)]
    return Verdict(verified, tokens_equal, tuple(problems))


def _problems(one: Asked, truth: Generation) -> Iterator[str]:
    generation = one.generation
    if one.ask.is_reuse and generation.hit_tokens == 0:
        yield "nothing was found in Penstock"
    if one.ask.phase is Phase.COLD and generation.hit_tokens >= generation.prompt_tokens // 2:
        yield "was meant to be cold, and most of it was found"
    if generation.chunk_digests != truth.chunk_digests:
        yield "its KV differs from the KV that was computed"
    if generation.tokens != truth.tokens:
        yield "its answer differs from the answer with the engine's own prefix cache"
    elif generation.logits_digest != truth.logits_digest:
        yield "its logits differ from those with the engine's own prefix cache"


def _where(ask: Ask) -> str:
    return f"round {ask.round}, document {ask.document + 1}, question {ask.question + 1}"


def of_phase(asked: Iterable[Asked], phase: Phase) -> list[Generation]:
    """The generations of one phase, in order."""
    return [one.generation for one in asked if one.ask.phase is phase]
