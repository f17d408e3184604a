"""The demo's numbers against a run whose numbers are known."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from penstock.actors.cli.demo_documents import Document
from penstock.actors.cli.demo_plan import Asked, Phase, Verdict, plan
from penstock.actors.cli.demo_plot import draw
from penstock.actors.cli.demo_report import as_json, closing_lines, sources, summarise, table
from penstock.actors.engine.reference_messages import Generation, Transfer

GIB = 1 << 30
TTFT_S = {Phase.COLD: 3.0, Phase.WARM: 0.2, Phase.DISK: 0.3, Phase.CHECK: 0.15}
LOOKUP_S = {Phase.COLD: 0.001, Phase.WARM: 0.001, Phase.DISK: 0.5, Phase.CHECK: 0.0}


def a_run() -> list[Asked]:
    """Two documents, two questions, two rounds: 2 cold, 6 warm, 2 from disk, 4 checks."""
    return [
        Asked(
            ask,
            Generation(
                tokens=[1],
                prompt_tokens=4000 + ask.document,
                hit_tokens=0 if ask.phase is Phase.COLD else 3840,
                ttft_s=TTFT_S[ask.phase],
                lookup_s=LOOKUP_S[ask.phase],
                load=Transfer(GIB, 0.1) if ask.is_reuse else Transfer(),
                store=Transfer(GIB, 0.25) if ask.phase is Phase.COLD else Transfer(),
                logits_digest="l",
                chunk_digests=["a"],
            ),
        )
        for ask in plan(documents=2, questions=2, rounds=2)
    ]


GOOD = Verdict(kv_bytes_verified=8 * GIB, tokens_equal=True, problems=())


def test_the_json_says_what_was_measured() -> None:
    """Goal: medians of times and tokens over requests, sums of bytes over sums of seconds."""
    run = a_run()
    numbers = json.loads(json.dumps(as_json(summarise(run), GOOD, run)))
    assert len(numbers.pop("requests")) == 14
    assert numbers == {
        "prompt_tokens": 4000,
        "hit_tokens": 3840,
        "ttft_cold_ms": 3000.0,
        "ttft_warm_ms": 200.0,
        "ttft_disk_ms": 300.0,
        "ttft_own_cache_ms": 150.0,
        "stored_bytes": 2 * GIB,
        "retrieved_bytes": 8 * GIB,
        "store_gib_s": 4.0,
        "retrieve_gib_s": 10.0,
        "disk_bytes": 2 * GIB,
        "disk_gib_s": 2.0,
        "kv_bytes_verified": 8 * GIB,
        "tokens_equal": True,
        "problems": [],
    }


def test_the_table_has_a_row_for_each_document_and_one_for_all() -> None:
    """Goal: what a reader sees on the terminal."""
    console = Console(file=StringIO(), width=80)
    console.print(table([Document("a.txt", ""), Document("b.txt", "")], a_run()))
    shown = console.file.getvalue()
    rows = [line.split() for line in shown.splitlines() if "3,840" in line]
    assert rows == [
        ["a.txt", "4,000", "3,840", "3,000", "200", "300", "1,024", "4,096"],
        ["b.txt", "4,001", "3,840", "3,000", "200", "300", "1,024", "4,096"],
        ["all", "4,000", "3,840", "3,000", "200", "300", "2,048", "8,192"],
    ]


def test_the_sources_are_told_apart() -> None:
    """Goal: cold, memory and disk, each with what it saves and how fast its bytes came."""
    console = Console(file=StringIO(), width=80)
    console.print(sources(summarise(a_run())))
    rows = [line.split() for line in console.file.getvalue().splitlines() if ":" in line]
    assert [row[-3:] for row in rows[1:]] == [["200", "1/15", "10.00"], ["300", "1/10", "2.00"]]
    assert rows[0][-1] == "3,000"


def test_problems_are_said_instead_of_praise() -> None:
    """Goal: nobody reads "bit-identical" under a failure."""
    summary = summarise(a_run())
    assert "bit-identical" in "\n".join(closing_lines(summary, GOOD))
    bad = closing_lines(summary, replace(GOOD, problems=("round 2: its KV differs",)))
    assert "bit-identical" not in "\n".join(bad)
    assert bad[-1] == "PROBLEM round 2: its KV differs."


def test_a_run_that_moved_nothing_has_no_throughput() -> None:
    """Goal: no division by zero where Penstock found nothing."""
    idle = [replace(one, generation=replace(one.generation, load=Transfer())) for one in a_run()]
    assert as_json(summarise(idle), GOOD, idle)["retrieve_gib_s"] == 0.0


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    """Goal: a file that an image viewer opens, and a clear error where none can be written."""
    draw(a_run(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OSError, match="absent"):
        draw(a_run(), tmp_path / "absent" / "plot.png")
