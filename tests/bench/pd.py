"""Prefill to decode: how long a prompt takes to another node, and how much of that is hidden by its prefill.

    python tests/bench/pd.py [--json FILE] [--rounds N]

Two nodes on this machine, each in a process of its own, a data channel between them, and an engine attached to each in
this one. `transfer_ms`: from the decode engine's PdExpect, with all of the prompt in the other node's L1, to its last
Progress. Then the same prompts are prefilled chunk by chunk in PREFILL_MS, and pushed meanwhile: `tail_ms` is what is
left to wait for after the last commit, `overlap_percent` the part of `transfer_ms` that the prefill has hidden.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio
from harness import Options, Report, Sample, parse_options
from support.cluster import Plan, served_member
from support.declarations import CHUNK_TOKENS, group, hello, keys
from support.media import Prompt, put
from support.raw_engine import RawEngine, attached

from penstock.protos import engine_pb2 as pb
from penstock.runtime.units import KIB, MIB

SIZES = ((128, 1 * MIB), (1024, 64 * KIB), (16, 4 * MIB))  # chunks, and bytes of one object each
PREFILL_MS = 400.0  # of a whole prompt, shared out to its chunks
STEPS_MAX = 64  # of a prefill: an engine commits what one step of it has computed
LINKED_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Sides:
    """The engines."""

    prefill: RawEngine
    decode: RawEngine


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one request, milliseconds."""

    whole: float  # from PdExpect to the last Progress
    tail: float  # from the last commit


@asynccontextmanager
async def two_nodes(object_bytes: int, chunks: int) -> AsyncIterator[Sides]:
    """Linked, with an engine each."""
    plan, room = Plan.of("a", "b"), 4 * object_bytes * chunks
    with ExitStack() as stack:
        addresses = []
        for name in ("a", "b"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            given = {"pd": {"receive": room}, "heartbeat": "10s"}
            node = served_member(plan, name, folder, l1__bytes=room, cluster=given)
            addresses.append(stack.enter_context(node).address)
        declared = group(token_bytes=object_bytes // CHUNK_TOKENS)
        async with (
            attached(addresses[0], hello(groups=[declared])) as prefill,
            attached(addresses[1], hello(groups=[declared])) as decode,
        ):
            yield Sides(prefill, decode)


async def push(sides: Sides, prompt: Prompt, request_id: str, *, chunk_s: float) -> Seen:
    """One request's way; `chunk_s` 0: it was prefilled before."""
    begun = committed = time.perf_counter()
    expect = pb.PdExpect(prompt=prompt.wire(), request_id=request_id, readers=1)
    ticket = (await sides.decode.ask(pd_expect=expect)).lookup.ticket
    send = pb.PdSend(prompt=prompt.wire(), request_id=request_id, target="b")
    transfer = (await sides.prefill.ask(pd_send=send)).pd_send.transfer
    if chunk_s:
        total = len(prompt.bodies)
        step = max(1, total // STEPS_MAX)
        for chunks in [*range(step, total, step), total]:
            await anyio.sleep(max(0.0, begun + chunks * chunk_s - time.perf_counter()))
            await put(sides.prefill, Prompt(prompt.keys[: chunks * 32], prompt.bodies[:chunks]))
        committed = time.perf_counter()
    last = await sides.decode.last_progress(ticket)
    over = time.perf_counter()
    wait = pb.PdWait(transfer=transfer, within_ms=5000)
    outcome = (await sides.prefill.ask(pd_wait=wait)).pd_wait
    if outcome.state != pb.PD_SENT_STATE_COMMITTED or last.hit_chunks != len(prompt.bodies):
        raise SystemExit(f"a push came to nothing: {outcome}, {last.hit_chunks} chunks")
    await sides.decode.ask(cancel=pb.Cancel(ticket=ticket))
    return Seen(1000 * (over - begun), 1000 * (over - committed))


async def linked(sides: Sides, prompt: Prompt) -> None:
    """Wait until a push comes through at all."""
    with anyio.fail_after(LINKED_WITHIN_S):
        while True:
            send = pb.PdSend(prompt=prompt.wire(), request_id=os.urandom(8).hex(), target="b")
            transfer = (await sides.prefill.ask(pd_send=send)).pd_send.transfer
            wait = pb.PdWait(transfer=transfer, within_ms=5000)
            state = (await sides.prefill.ask(pd_wait=wait)).pd_wait.state
            if state == pb.PD_SENT_STATE_COMMITTED:
                return
            await anyio.sleep(0.2)


async def measure(
    chunks: int, object_bytes: int, rounds: int
) -> tuple[Sequence[Seen], Sequence[Seen]]:
    """Pushes of what is there, and of what is being prefilled, in turn."""
    ready: list[Seen] = []
    paced: list[Seen] = []
    async with two_nodes(object_bytes, chunks) as sides:
        body = random.Random(object_bytes).randbytes(object_bytes)
        warm = Prompt(keys(1, prompt="warm"), (body,))
        await put(sides.prefill, warm)
        await linked(sides, warm)
        for number in range(rounds):
            for seen, chunk_s in ((ready, 0.0), (paced, PREFILL_MS / 1000 / chunks)):
                name = f"{number} {chunk_s}"
                prompt = Prompt(keys(chunks, prompt=name), (body,) * chunks)
                if not chunk_s:
                    await put(sides.prefill, prompt)
                seen.append(await push(sides, prompt, name, chunk_s=chunk_s))
    return ready, paced


def main(options: Options) -> None:
    report, rows = Report("pd"), []
    for chunks, object_bytes in SIZES:
        ready, paced = anyio.run(measure, chunks, object_bytes, options.rounds)
        transfer = Sample(tuple(one.whole for one in ready))
        tail = Sample(tuple(one.tail for one in paced))
        hidden = Sample(
            tuple(
                100 * (1 - after.tail / alone.whole)
                for alone, after in zip(ready, paced, strict=True)
            )
        )
        prefill = Sample(tuple(one.whole - one.tail for one in paced))
        name = f"{chunks}x{object_bytes // KIB}kib"
        report.add(f"{name}_transfer_ms", transfer, unit="ms")
        report.add(f"{name}_tail_ms", tail, unit="ms")
        report.add(f"{name}_prefill_ms", prefill, unit="ms")
        report.add(f"{name}_overlap_percent", hidden, unit="%")
        gib_s = chunks * object_bytes / 2**30 / (transfer.median / 1000)
        report.add(f"{name}_gib_s", gib_s, unit="GiB/s")
        rows.append(
            {
                "chunks": chunks,
                "object_bytes": object_bytes,
                "transfer_ms": transfer.median,
                "tail_ms": tail.median,
                "prefill_ms": prefill.median,
                "overlap_percent": hidden.median,
            }
        )
    report.note("rows", rows)
    report.finish(options)


if __name__ == "__main__":
    main(parse_options(__doc__))
