"""A node that dies in the middle of a push: the other one notices, lets go of everything, and goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from support.cluster import Member, Plan, member, served_member
from support.declarations import hello
from support.eventually import eventually
from support.media import Prompt, find, put
from support.nodes import ServedNode, nobody_reads
from support.raw_engine import RawEngine, attached

from penstock.actors import node_pd
from penstock.protos import engine_pb2 as pb
from penstock.protos import pd_pb2

pytestmark = pytest.mark.anyio
assert node_pd  # loaded by a node when it starts: that is no step of ours

HALF = 4
PD = {
    "pd": {"receive": "4MiB", "part_objects": 2, "idle": "3s"},
    "heartbeat": "1s",
    "dial_pause_max": "200ms",
}


@dataclass(frozen=True)
class Pair:
    """A node of this process, and one that can be killed."""

    here: Member
    there: ServedNode
    engine: RawEngine  # attached there


@asynccontextmanager
async def pair(tmp_path: Path, *, here: str, there: str) -> AsyncIterator[Pair]:
    plan = Plan.of(here, there)
    with served_member(plan, there, tmp_path, cluster=PD) as served:
        async with (
            member(plan, here, cluster=PD) as one,
            attached(served.address, hello()) as engine,
        ):

            async def is_linked() -> bool:
                """Each has dialled the other."""
                told = (await one.usage()).peers
                return await one.linked() == {there} and [peer.serves for peer in told] == [1]

            await eventually(is_linked, within=10, what="both are linked")
            yield Pair(one, served, engine)


def half(prompt: Prompt) -> Prompt:
    return Prompt(prompt.keys[: HALF * 32], prompt.bodies[:HALF])


async def push(
    prefill: RawEngine, decode: RawEngine, target: str, prompt: Prompt
) -> tuple[bytes, bytes]:
    """Half of it has come: the names of transfer and ticket."""
    await put(prefill, half(prompt))
    sends = pb.PdSend(prompt=prompt.wire(), request_id="r", target=target)
    transfer = (await prefill.ask(pd_send=sends)).pd_send.transfer
    expects = pb.PdExpect(prompt=prompt.wire(), request_id="r", readers=1)
    found = (await decode.ask(pd_expect=expects)).lookup

    async def has_come() -> bool:
        return any(one.hit_chunks >= HALF for one in decode.progress)

    await eventually(has_come, within=10, what="half of the prompt is there")
    return transfer, found.ticket


async def test_the_death_of_the_prefill_node_ends_what_is_expected_of_it(tmp_path: Path) -> None:
    """C8: what has come is read, the rest is computed, and the next request is served."""
    prompt, later = Prompt.made("p", 8), Prompt.made("q", 3)
    async with pair(tmp_path, here="b", there="a") as both:
        decode = both.here.engine
        _, ticket = await push(both.engine, decode, "b", prompt)
        both.there.kill()
        with anyio.fail_after(8):
            last = await decode.last_progress(ticket)
        assert last.hit_chunks == HALF
        lease = (await decode.acquire(ticket)).acquired
        assert lease.chunks == HALF
        assert (await decode.release(lease.lease)).released.ok
        await decode.ask(cancel=pb.Cancel(ticket=ticket))

        async def is_drained() -> bool:
            usage = await both.here.node.usage()
            return usage.pd_free_bytes == usage.pd_bytes

        await eventually(is_drained, within=10, what="the receive pool is empty")
        await put(decode, later)
        assert (await find(decode, later)).bodies == later.bodies


async def test_the_death_of_the_decode_node_ends_the_push(tmp_path: Path) -> None:
    """C8: told to who waits for it; nothing of L1 is held for it any more."""
    prompt = Prompt.made("p", 8)
    async with pair(tmp_path, here="a", there="b") as both:
        prefill = both.here.engine
        transfer, _ = await push(prefill, both.engine, "b", prompt)
        both.there.kill()
        wait = pb.PdWait(transfer=transfer, within_ms=8000)
        sent = (await prefill.ask(pd_wait=wait, deadline_ms=9000)).pd_wait
        assert (sent.state, sent.reason) == (pb.PD_SENT_STATE_FAILED, pd_pb2.PD_REASON_PEER)
        await nobody_reads(both.here.node)
        await put(prefill, prompt)
        assert (await find(prefill, prompt)).bodies == prompt.bodies
