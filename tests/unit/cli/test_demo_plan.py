"""What the demo asks, and that its judgement can find fault."""

from dataclasses import replace

import pytest

from penstock.actors.cli.demo_plan import Ask, Asked, Phase, home, judge, plan
from penstock.actors.engine.reference_messages import Generation, PrefixFrom, Transfer

CHUNK, TOKEN_BYTES = 4, 10


def generation(hit_tokens: int) -> Generation:
    return Generation(
        tokens=[1, 2],
        prompt_tokens=10,
        hit_tokens=hit_tokens,
        ttft_s=1.0,
        lookup_s=0.1,
        load=Transfer(hit_tokens * TOKEN_BYTES, 0.2),
        store=Transfer(),
        logits_digest="l",
        chunk_digests=["a", "b"],
    )


def good_run() -> list[Asked]:
    hits = {Phase.COLD: 0, Phase.WARM: 8, Phase.DISK: 8, Phase.CHECK: 8}
    return [
        Asked(ask, generation(hits[ask.phase])) for ask in plan(documents=2, questions=2, rounds=2)
    ]


def test_the_plan_reads_cold_once_and_warm_on_both_workers() -> None:
    """Goal: each document is computed once, then found by a worker that never saw it and by its
    own."""
    asks = plan(documents=3, questions=3, rounds=3)
    cold = [ask for ask in asks if ask.phase is Phase.COLD]
    assert [(ask.document, ask.worker) for ask in cold] == [(0, 0), (1, 1), (2, 0)]
    for document in range(3):
        warm = [ask for ask in asks if ask.phase is Phase.WARM and ask.document == document]
        assert len(warm) == 2 * 3 + 1
        assert warm[0].worker != home(document)
        assert {ask.worker for ask in warm} == {0, 1}
        assert {ask.worker for ask in warm if ask.question == 0} == {0, 1}
    disk = [ask for ask in asks if ask.phase is Phase.DISK]
    assert [(ask.document, ask.worker) for ask in disk] == [(0, 1), (1, 0), (2, 1)]
    check = [ask for ask in asks if ask.phase is Phase.CHECK]
    assert all(ask.worker == home(ask.document) for ask in check)
    assert {ask.prefix_from for ask in check} == {PrefixFrom.OWN_CACHE}
    assert len({(ask.document, ask.question) for ask in check}) == 9


def test_the_smallest_plan_still_crosses_over() -> None:
    """Goal: one document, one question, two rounds: written by one worker, read by the other."""
    assert plan(documents=1, questions=1, rounds=2) == [
        Ask(Phase.COLD, 1, 0, 0, 0),
        Ask(Phase.WARM, 2, 0, 0, 1),
        Ask(Phase.DISK, 3, 0, 0, 1),
        Ask(Phase.WARM, 3, 0, 0, 0),
        Ask(Phase.CHECK, 4, 0, 0, 0),
    ]


def test_a_good_run_is_found_good_and_its_bytes_are_counted() -> None:
    """Goal: what was loaded and is equal counts, and nothing else does: six warm answers of 8
    tokens, and two from disk."""
    verdict = judge(good_run(), chunk_tokens=CHUNK, kv_token_bytes=TOKEN_BYTES)
    assert verdict.problems == ()
    assert verdict.tokens_equal
    assert verdict.kv_bytes_verified == 8 * 8 * TOKEN_BYTES


@pytest.mark.parametrize(
    ("ask", "where"),
    [
        (Ask(Phase.WARM, 2, 1, 0, 0), "round 2, document 2, question 1: "),
        (Ask(Phase.DISK, 3, 1, 0, 0), "round 3, document 2, question 1: "),
    ],
)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"chunk_digests": ["a", "x"]}, "its KV differs"),
        ({"tokens": [1, 3]}, "its answer differs"),
        ({"logits_digest": "x"}, "its logits differ"),
        ({"hit_tokens": 0}, "nothing was found"),
    ],
)
def test_each_fault_of_a_reused_answer_is_named(
    ask: Ask, where: str, damage: dict[str, object], words: str
) -> None:
    """Goal: no fault passes. Method: damage one answer of a good run, from memory or from disk."""
    run = good_run()
    at = next(i for i, one in enumerate(run) if one.ask == ask)
    run[at] = Asked(run[at].ask, replace(run[at].generation, **damage))
    verdict = judge(run, chunk_tokens=CHUNK, kv_token_bytes=TOKEN_BYTES)
    assert len(verdict.problems) == 1
    assert verdict.problems[0].startswith(where)
    assert words in verdict.problems[0]
    assert verdict.tokens_equal == ("tokens" not in damage)
    lost = {"chunk_digests": 4, "hit_tokens": 8}
    assert verdict.kv_bytes_verified == TOKEN_BYTES * (64 - sum(lost.get(key, 0) for key in damage))


def test_a_cold_request_that_was_warm_is_a_problem() -> None:
    """Goal: the cold time is what it is called."""
    run = good_run()
    run[0] = Asked(run[0].ask, generation(8))
    verdict = judge(run, chunk_tokens=CHUNK, kv_token_bytes=TOKEN_BYTES)
    assert [problem.partition(": ")[2] for problem in verdict.problems] == [
        "was meant to be cold, and most of it was found"
    ]
