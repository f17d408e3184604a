"""The cost of talking to an actor: ask round trips and tells, beside a bare pair of asyncio queues.

ask_us_p50          ask of a serial actor with a `def receive`, one after the other ask_async_us_p50
the same with an `async def receive` that does not wait tells_per_s         tells into one mailbox,
served while they arrive queue_pair_us_p50   a round trip over two asyncio.Queues between two tasks,
no deadline, no reply type
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from harness import Report, interleaved, parse_options, percentile, ratio

from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec, supervise

ROUND_TRIPS = 10_000
TELLS = 50_000
MESSAGES_MAX = 256


@dataclass(frozen=True, slots=True)
class Echo(Msg["Critical | Waiting", int]):
    number: int


@dataclass(frozen=True, slots=True)
class Note(Msg["Critical | Waiting", None]):
    number: int


class Critical(Actor[Echo | Note]):
    """Answers in a critical section."""

    def receive(self, msg: Echo | Note) -> object:
        return msg.number


class Waiting(Actor[Echo | Note]):
    """Could wait, but has no need to."""

    async def receive(self, msg: Echo | Note) -> object:
        return msg.number


async def _round_trips_us(trip: Callable[[int], Awaitable[object]]) -> float:
    took = []
    for number in range(ROUND_TRIPS):
        begin = time.perf_counter()
        await trip(number)
        took.append(time.perf_counter() - begin)
    return percentile(took, 50) * 1e6


async def _ask_us(actor: type[Critical | Waiting]) -> float:
    ref: Ref[Critical | Waiting] = Ref.to(actor, "echo", messages_max=MESSAGES_MAX)
    async with supervise(ChildSpec(ref, actor)):
        return await _round_trips_us(lambda number: ref.ask(Echo(number), within=60))


async def _tells_per_s() -> float:
    ref: Ref[Critical | Waiting] = Ref.to(Critical, "echo", messages_max=MESSAGES_MAX)
    async with supervise(ChildSpec(ref, Critical)):
        begin = time.perf_counter()
        for number in range(TELLS):
            await ref.tell(Note(number), within=60)
        await ref.ask(Echo(0), within=60)
        return TELLS / (time.perf_counter() - begin)


async def _queue_pair_us() -> float:
    there: asyncio.Queue[int] = asyncio.Queue(MESSAGES_MAX)
    back: asyncio.Queue[int] = asyncio.Queue(MESSAGES_MAX)

    async def echo() -> None:
        while True:
            await back.put(await there.get())

    async def trip(number: int) -> None:
        await there.put(number)
        await back.get()

    echoing = asyncio.create_task(echo())
    try:
        return await _round_trips_us(trip)
    finally:
        echoing.cancel()


def main() -> None:
    options = parse_options(__doc__)
    samples = interleaved(
        {
            "ask": lambda: asyncio.run(_ask_us(Critical)),
            "ask_async": lambda: asyncio.run(_ask_us(Waiting)),
            "tells": lambda: asyncio.run(_tells_per_s()),
            "queue_pair": lambda: asyncio.run(_queue_pair_us()),
        },
        rounds=options.rounds,
    )
    report = Report("actors")
    report.add("ask_us_p50", samples["ask"], unit="us")
    report.add("ask_async_us_p50", samples["ask_async"], unit="us")
    report.add("tells_per_s", samples["tells"], unit="1/s")
    report.add("queue_pair_us_p50", samples["queue_pair"], unit="us")
    report.add("ask_over_queue_pair", ratio(samples["ask"], samples["queue_pair"]), unit="")
    report.finish(options)


if __name__ == "__main__":
    main()
