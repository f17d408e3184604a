"""The demo's numbers: what is measured, the table, and the JSON."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from penstock.actors.cli.demo_documents import Document
from penstock.actors.cli.demo_plan import Asked, Phase, Verdict, of_phase
from penstock.actors.engine.reference_messages import Generation, Transfer

_GIB = 1 << 30
_MIB = 1 << 20
_MOVED = ("stored\nMiB", "loaded\nMiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All requests, or those about one document. Times and token counts are medians."""

    prompt_tokens: int  # of the warm prompts
    hit_tokens: int  # of those, found in Penstock
    ttft_cold_ms: float
    ttft_warm_ms: float
    ttft_disk_ms: float  # after the restart: the KV came from disk
    ttft_own_ms: float  # with the engine's own prefix cache: what a warm prompt costs at the least
    stored: Transfer  # sums over requests
    loaded: Transfer
    from_disk: Transfer  # of those, the bytes that came from disk, and the seconds of their lookups

    @property
    def speedup(self) -> float:
        """How many times sooner the first token comes."""
        return self.ttft_cold_ms / self.ttft_warm_ms

    @property
    def disk_speedup(self) -> float:
        """The same, from disk."""
        return self.ttft_cold_ms / self.ttft_disk_ms


def summarise(asked: Sequence[Asked]) -> Summary:
    """The numbers of `asked`, which must hold every phase."""
    cold, warm, disk, check = (of_phase(asked, phase) for phase in Phase)
    return Summary(
        prompt_tokens=round(statistics.median(one.prompt_tokens for one in warm)),
        hit_tokens=round(statistics.median(one.hit_tokens for one in warm)),
        ttft_cold_ms=_median_ttft_ms(cold),
        ttft_warm_ms=_median_ttft_ms(warm),
        ttft_disk_ms=_median_ttft_ms(disk),
        ttft_own_ms=_median_ttft_ms(check),
        stored=_sum(one.generation.store for one in asked),
        loaded=_sum(one.generation.load for one in asked),
        from_disk=_sum(Transfer(one.load.bytes, one.lookup_s) for one in disk),
    )


def gib_s(transfer: Transfer) -> float:
    """Throughput in GiB/s; 0 when nothing was moved."""
    return transfer.bytes / _GIB / transfer.seconds if transfer.bytes else 0.0


def as_json(summary: Summary, verdict: Verdict, asked: Sequence[Asked]) -> dict[str, object]:
    """What --json writes. Top level: medians over requests, sums of bytes. `requests`: each of
    them."""
    return {
        "prompt_tokens": summary.prompt_tokens,
        "hit_tokens": summary.hit_tokens,
        "ttft_cold_ms": round(summary.ttft_cold_ms, 3),
        "ttft_warm_ms": round(summary.ttft_warm_ms, 3),
        "ttft_disk_ms": round(summary.ttft_disk_ms, 3),
        "ttft_own_cache_ms": round(summary.ttft_own_ms, 3),
        "stored_bytes": summary.stored.bytes,
        "retrieved_bytes": summary.loaded.bytes,
        "store_gib_s": round(gib_s(summary.stored), 3),
        "retrieve_gib_s": round(gib_s(summary.loaded), 3),
        "disk_bytes": summary.from_disk.bytes,
        "disk_gib_s": round(gib_s(summary.from_disk), 3),
        "kv_bytes_verified": verdict.kv_bytes_verified,
        "tokens_equal": verdict.tokens_equal,
        "problems": list(verdict.problems),
        "requests": [_request(one) for one in asked],
    }


def _request(one: Asked) -> dict[str, object]:
    ask, generation = one.ask, one.generation
    return {
        "phase": ask.phase.value,
        "round": ask.round,
        "document": ask.document,
        "question": ask.question,
        "worker": ask.worker,
        "prompt_tokens": generation.prompt_tokens,
        "hit_tokens": generation.hit_tokens,
        "ttft_ms": round(generation.ttft_s * 1e3, 3),
        "lookup_ms": round(generation.lookup_s * 1e3, 3),
        "load_ms": round(generation.load.seconds * 1e3, 3),
        "store_ms": round(generation.store.seconds * 1e3, 3),
    }


def table(documents: Sequence[Document], asked: Sequence[Asked]) -> Table:
    """A row for each document and one for all; `disk` is after the restart."""
    result = Table(title="Time to first token, cold and with KV from Penstock", box=SIMPLE_HEAD)
    result.add_column("document", no_wrap=True, overflow="ellipsis")
    for heading in ("prompt\ntokens", "hit\ntokens", "cold\nms", "warm\nms", "disk\nms", *_MOVED):
        result.add_column(heading, justify="right")
    for index, document in enumerate(documents):
        of_document = [one for one in asked if one.ask.document == index]
        result.add_row(document.name, *_cells(summarise(of_document)))
    result.add_section()
    result.add_row("all", *_cells(summarise(asked)), style="bold")
    return result


def sources(summary: Summary) -> Table:
    """A row for each place that a prompt's KV may come from."""
    result = Table(box=SIMPLE_HEAD)
    result.add_column("where the KV comes from")
    for heading in ("first token\nms", "of cold", "KV\nGiB/s"):
        result.add_column(heading, justify="right")
    memory, disk = gib_s(summary.loaded), gib_s(summary.from_disk)
    cold, warm = summary.ttft_cold_ms, summary.ttft_warm_ms
    result.add_row("cold: all of it computed", f"{cold:,.0f}", "", "")
    result.add_row(
        "warm: Penstock's memory", f"{warm:,.0f}", _part(summary.speedup), f"{memory:.2f}"
    )
    from_disk = (f"{summary.ttft_disk_ms:,.0f}", _part(summary.disk_speedup), f"{disk:.2f}")
    result.add_row("warm: disk, after kill -9 of the node", *from_disk)
    return result


def _part(speedup: float) -> str:
    return f"1/{speedup:.3g}"


def _cells(summary: Summary) -> Iterable[str]:
    return (
        f"{summary.prompt_tokens:,}",
        f"{summary.hit_tokens:,}",
        f"{summary.ttft_cold_ms:,.0f}",
        f"{summary.ttft_warm_ms:,.0f}",
        f"{summary.ttft_disk_ms:,.0f}",
        f"{summary.stored.bytes / _MIB:,.0f}",
        f"{summary.loaded.bytes / _MIB:,.0f}",
    )


def closing_lines(summary: Summary, verdict: Verdict) -> list[str]:
    """What was moved and what was proven, in sentences."""
    stored, loaded, verified = (
        f"{count / _MIB:,.0f} MiB"
        for count in (summary.stored.bytes, summary.loaded.bytes, verdict.kv_bytes_verified)
    )
    moved = (
        f"KV stored: {stored} at {gib_s(summary.stored):.2f} GiB/s; "
        f"loaded: {loaded} at {gib_s(summary.loaded):.2f} GiB/s."
    )
    own = f"An engine's own prefix cache gives the first token after {summary.ttft_own_ms:,.0f} ms."
    if verdict.problems:
        return [moved, own, *(f"PROBLEM {problem}." for problem in verdict.problems)]
    equal = f"{verified} of KV were read back, bit-identical to what was written."
    same = "All answers equal those with the engine's own prefix cache, logits included."
    return [moved, own, equal, same]


def _median_ttft_ms(generations: Sequence[Generation]) -> float:
    return statistics.median(one.ttft_s for one in generations) * 1e3


def _sum(transfers: Iterable[Transfer]) -> Transfer:
    every = list(transfers)
    return Transfer(sum(one.bytes for one in every), sum(one.seconds for one in every))
