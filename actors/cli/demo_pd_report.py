"""What `penstock demo --pd` prints and writes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from penstock.actors.cli.demo_documents import Document
from penstock.actors.cli.demo_pd import Shown
from penstock.actors.cli.demo_pd_cluster import IDLE_S
from penstock.actors.cli.demo_pd_judge import Handover, Scene, problems

_MIB = 1 << 20
_LEGEND = (
    "prefill: until the prompt is computed; transfer: the whole push, by itself; hidden: the part of it that was done"
    " when the prompt was; answer: from the request to the first token at the decode node; single: to that of one"
    " engine that does all of it."
)
_HEADINGS = (
    *("prompt\ntokens", "prefill\nms", "transfer\nms", "hidden\n%"),
    *("answer\nms", "single\nms", "moved\nMiB"),
)


def table(documents: Sequence[Document], shown: Shown) -> Table:
    """A row for each document in each scene."""
    result = Table(title="Prefill at one node, decode at another", box=SIMPLE_HEAD, padding=0)
    result.add_column("document", no_wrap=True, overflow="ellipsis", max_width=24)
    for heading in _HEADINGS:
        width = max(map(len, heading.split("\n")))
        result.add_column(heading, justify="right", min_width=width)
    for scene in Scene:
        of_scene = [one for one in shown.handovers if one.scene is scene]
        for one in of_scene:
            result.add_row(f"{scene.value} {documents[one.document].name}", *_cells(one))
        result.add_section()
    return result


def _cells(one: Handover) -> Sequence[str]:
    is_whole = one.alone is not None
    return (
        f"{one.decoded.prompt_tokens:,}",
        f"{one.prefill_ms:,.0f}" if is_whole else "",
        f"{one.transfer_ms:,.1f}" if is_whole else "",
        f"{one.overlap_percent:.0f}" if is_whole else "",
        f"{one.decode_start_ms:,.0f}",
        f"{one.truth.ttft_s * 1e3:,.0f}",
        f"{one.decoded.load.bytes / _MIB:,.1f}",
    )


def sentences(shown: Shown, *, chunk_tokens: int) -> list[str]:
    """What the columns mean, what the kill did, and what was proven or not."""
    said = [
        _LEGEND,
        f"delayed: {shown.delay}.",
    ]
    for one in (one for one in shown.handovers if one.scene is Scene.KILLED):
        said.append(
            f"killed: the decode engine knew after {one.learned_s * 1e3:,.0f} ms, had"
            f" {one.decoded.hit_tokens:,} tokens and computed the rest; of its node's memory for pushes"
            f" {one.pool.free_bytes / _MIB:,.0f} of {one.pool.bytes / _MIB:,.0f} MiB are free."
        )
    wrong = all_problems(shown, chunk_tokens=chunk_tokens)
    if wrong:
        return [*said, *(f"PROBLEM {problem}." for problem in wrong)]
    return [
        *said,
        "All answers equal those of a single engine: tokens, logits and every bit of KV.",
    ]


def all_problems(shown: Shown, *, chunk_tokens: int) -> list[str]:
    """What is not as it has to be, where; none: all is well."""
    return [
        f"{one.scene.value}, document {one.document + 1}: {problem}"
        for one in shown.handovers
        for problem in problems(one, chunk_tokens=chunk_tokens, learns_within_s=IDLE_S)
    ]


def as_json(shown: Shown, documents: Sequence[Document], *, chunk_tokens: int) -> dict[str, object]:
    """What --json writes."""
    return {
        "network": shown.network,
        "delay": shown.delay,
        "problems": all_problems(shown, chunk_tokens=chunk_tokens),
        "rows": [_row(one, documents) for one in shown.handovers],
    }


def _row(one: Handover, documents: Sequence[Document]) -> dict[str, object]:
    return {
        "scene": one.scene.value,
        "document": documents[one.document].name,
        "prompt_tokens": one.decoded.prompt_tokens,
        "hit_tokens": one.decoded.hit_tokens,
        "prefill_ms": round(one.prefill_ms, 3),
        "transfer_ms": round(one.transfer_ms, 3),
        "tail_ms": round(one.tail_ms, 3),
        "overlap_percent": round(one.overlap_percent, 1),
        "decode_start_ms": round(one.decode_start_ms, 3),
        "single_engine_ms": round(one.truth.ttft_s * 1e3, 3),
        "pushed_bytes": one.pushed.bytes,
        "loaded_bytes": one.decoded.load.bytes,
        "push_failure": one.pushed.failure,
        "shortfall": one.last.shortfall,
        "learned_ms": round(one.learned_s * 1e3, 3),
        "pool_bytes": one.pool.bytes,
        "pool_free_bytes": one.pool.free_bytes,
    }
