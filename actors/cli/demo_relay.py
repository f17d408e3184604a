"""A way to a TCP server on which some parts come late: `demo_relay.py LISTEN TARGET DELAY_MS PERCENT`.

For machines that cannot delay packets themselves. As on a wire, what follows a late part waits for it, since TCP hands
over bytes in order, and late parts overlap: each is late by itself.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

PART_BYTES = 32 << 10
PARTS_MAX = 128  # on their way, of one direction of one connection
BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class Lateness:
    """When a part that comes now is due: some are late, none overtakes another."""

    def __init__(self, *, delay_s: float, percent: float, seed: int) -> None:
        self._delay_s, self._part = delay_s, percent / 100
        self._random = random.Random(seed)
        self._last_s = 0.0

    def due_s(self, now_s: float) -> float:
        """On the clock of `now_s`, which never goes back."""
        is_late = self._random.random() < self._part
        self._last_s = max(self._last_s, now_s + (self._delay_s if is_late else 0.0))
        return self._last_s


async def pass_on(source: ByteReceiveStream, target: ByteSendStream, lateness: Lateness) -> None:
    """Until either of them ends."""
    entrance, exit_ = anyio.create_memory_object_stream[tuple[float, bytes]](PARTS_MAX)
    async with anyio.create_task_group() as ways:
        ways.start_soon(_take_in, source, entrance, lateness)
        await _hand_out(exit_, target)
        ways.cancel_scope.cancel()


async def _take_in(
    source: ByteReceiveStream,
    entrance: MemoryObjectSendStream[tuple[float, bytes]],
    lateness: Lateness,
) -> None:
    with entrance, suppress(*BROKEN):
        while True:
            part = await source.receive(PART_BYTES)
            await entrance.send((lateness.due_s(anyio.current_time()), part))


async def _hand_out(
    exit_: MemoryObjectReceiveStream[tuple[float, bytes]], target: ByteSendStream
) -> None:
    with exit_, suppress(*BROKEN):
        async for due_s, part in exit_:
            await anyio.sleep_until(due_s)
            await target.send(part)


def _unheard(port: int) -> None:
    pass


async def serve(
    listen: str,
    target: str,
    *,
    delay_s: float,
    percent: float,
    started: Callable[[int], None] = _unheard,
) -> None:
    """Until it is cancelled. `listen` and `target`: host:port. `started` is told the port, once it is open."""
    host, _, port = listen.rpartition(":")
    to_host, _, to_port = target.rpartition(":")

    async def meet(near: SocketStream) -> None:
        with suppress(*BROKEN):
            async with (
                near,
                await anyio.connect_tcp(to_host, int(to_port)) as far,
                anyio.create_task_group() as ways,
            ):
                for seed, (source, sink) in enumerate(((near, far), (far, near))):
                    lateness = Lateness(delay_s=delay_s, percent=percent, seed=seed)
                    ways.start_soon(_one_way, source, sink, lateness, ways.cancel_scope)

    async with await anyio.create_tcp_listener(local_host=host, local_port=int(port)) as listener:
        started(listener.extra(anyio.abc.SocketAttribute.local_port))
        await listener.serve(meet)


async def _one_way(
    source: SocketStream, sink: SocketStream, lateness: Lateness, both: anyio.CancelScope
) -> None:
    await pass_on(source, sink, lateness)
    both.cancel()


def main(arguments: Sequence[str]) -> None:
    """Serve until the process is ended."""
    listen, target, delay_ms, percent = arguments
    anyio.run(lambda: serve(listen, target, delay_s=float(delay_ms) / 1e3, percent=float(percent)))


if __name__ == "__main__":
    main(sys.argv[1:])
