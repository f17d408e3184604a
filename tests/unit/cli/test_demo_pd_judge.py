"""The numbers of prefill at one node and decode at another, and what is found wrong with a run."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import msgspec
import pytest
from rich.console import Console

from penstock.actors.cli.demo_documents import Document
from penstock.actors.cli.demo_pd import Shown
from penstock.actors.cli.demo_pd_judge import Handover, Scene, overlap_percent, problems
from penstock.actors.cli.demo_pd_report import as_json, sentences, table
from penstock.actors.engine.reference_messages import (
    Generation,
    Pool,
    Pushed,
    Transfer,
    Watched,
)

CHUNK = 256
ANSWER = Generation(
    tokens=[1, 2],
    prompt_tokens=3 * CHUNK + 1,
    hit_tokens=3 * CHUNK,
    ttft_s=0.25,
    lookup_s=0.0,
    load=Transfer(3 << 20, 0.1),
    store=Transfer(),
    logits_digest="l",
    chunk_digests=["a", "b", "c"],
)
PUSHED = Pushed(
    generation=ANSWER,
    begun_s=100.0,
    first_chunk_s=100.5,
    prefilled_s=102.0,
    over_s=102.1,
    bytes=3 << 20,
    held_bytes=0,
    failure="",
    is_let_go=False,
)
WHOLE = Handover(
    scene=Scene.PLAIN,
    document=0,
    truth=ANSWER,
    pushed=PUSHED,
    alone=msgspec.structs.replace(PUSHED, begun_s=200.0, over_s=200.4),
    last=Watched(3, 3, is_final=True, shortfall="NONE"),
    decoded=ANSWER,
    decode_asked_s=102.125,
    pool=Pool(1 << 20, 1 << 20, 0),
)
KILLED = replace(
    WHOLE,
    scene=Scene.KILLED,
    alone=None,
    pushed=msgspec.structs.replace(PUSHED, failure="its outcome is not known"),
    decoded=replace(ANSWER, hit_tokens=CHUNK),
    last=Watched(1, 3, is_final=True, shortfall="FAILED"),
    learned_s=0.02,
)


def said_of(one: Handover) -> list[str]:
    return list(problems(one, chunk_tokens=CHUNK, learns_within_s=5.0))


def test_times_are_counted_from_the_request() -> None:
    assert WHOLE.prefill_ms == pytest.approx(2000)
    assert WHOLE.transfer_ms == pytest.approx(400)
    assert WHOLE.tail_ms == pytest.approx(100)
    assert WHOLE.overlap_percent == pytest.approx(75)
    assert WHOLE.decode_start_ms == pytest.approx(2375)


@pytest.mark.parametrize(
    ("transfer_ms", "tail_ms", "percent"),
    [(100, 0, 100), (100, 25, 75), (100, 100, 0), (100, 250, 0), (0, 0, 0)],
)
def test_the_hidden_part_is_within_0_and_100(
    transfer_ms: float, tail_ms: float, percent: float
) -> None:
    assert overlap_percent(transfer_ms=transfer_ms, tail_ms=tail_ms) == pytest.approx(percent)


def test_a_push_that_is_over_before_the_prompt_is_computed_is_hidden_whole() -> None:
    early = replace(WHOLE, pushed=msgspec.structs.replace(PUSHED, over_s=101.0))
    assert (early.tail_ms, early.overlap_percent) == (0.0, 100.0)


def test_nothing_is_wrong_with_what_went_well() -> None:
    assert said_of(WHOLE) == said_of(KILLED) == []


def test_whoever_has_all_of_it_may_let_go_first() -> None:
    let_go = msgspec.structs.replace(PUSHED, failure="CANCELLED", is_let_go=True)
    assert said_of(replace(WHOLE, pushed=let_go)) == []


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (replace(WHOLE, decoded=replace(ANSWER, tokens=[1, 3])), "the answer differs"),
        (replace(WHOLE, decoded=replace(ANSWER, logits_digest="m")), "the logits differ"),
        (replace(WHOLE, decoded=replace(ANSWER, chunk_digests=["a", "b", "x"])), "the KV differs"),
        (replace(WHOLE, pool=Pool(100, 90, 0)), "10 bytes"),
        (replace(WHOLE, decoded=replace(ANSWER, hit_tokens=512)), "512 of 768 tokens"),
        (
            replace(WHOLE, pushed=msgspec.structs.replace(PUSHED, failure="DAMAGED")),
            "the push failed: DAMAGED",
        ),
        (
            replace(WHOLE, alone=msgspec.structs.replace(PUSHED, held_bytes=7)),
            "7 bytes were not pushed",
        ),
        (replace(KILLED, pushed=PUSHED), "although its node was killed"),
        (replace(KILLED, decoded=ANSWER), "not the midst"),
        (replace(KILLED, decoded=replace(ANSWER, hit_tokens=0)), "not the midst"),
        (replace(KILLED, learned_s=6.0), "after 6.0 s"),
        (replace(KILLED, last=Watched(1, 3, is_final=False, shortfall="NONE")), "learned of it"),
    ],
)
def test_whatever_is_wrong_is_one_sentence(one: Handover, words: str) -> None:
    said = said_of(one)
    assert len(said) == 1
    assert words in said[0]


def test_the_report_names_scenes_numbers_and_problems() -> None:
    shown = Shown([WHOLE, KILLED], "two ports", "5 % late")
    documents = [Document("README.md", "text")]
    console = Console(file=StringIO(), width=80)
    console.print(table(documents, shown))
    lines = console.file.getvalue()  # type: ignore[attr-defined]
    assert "plain README" in lines
    assert "killed README" in lines
    assert "2,375" in lines
    assert "MiB" in lines
    good = sentences(shown, chunk_tokens=CHUNK)
    assert good[-1].startswith("All answers equal")
    assert any("knew after 20 ms" in line for line in good)
    bad = Shown([replace(WHOLE, pool=Pool(100, 90, 0))], "two ports", "5 % late")
    assert sentences(bad, chunk_tokens=CHUNK)[-1].startswith("PROBLEM plain, document 1: 10 bytes")
    numbers = as_json(shown, documents, chunk_tokens=CHUNK)
    assert numbers["problems"] == []
    assert [row["overlap_percent"] for row in numbers["rows"]] == [75.0, 0.0]  # type: ignore[attr-defined]
