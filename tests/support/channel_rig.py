"""Two nodes' ends of one kind of channel, on one loop, and what tests do with them."""

from __future__ import annotations

import gc
import importlib
import random
import secrets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from support.eventually import eventually

from penstock.runtime.channel import (
    SECRET_BYTES,
    ChannelKind,
    Connection,
    Endpoint,
    Landing,
    LandingSlot,
    Piece,
)
from penstock.runtime.units import KIB, MIB

LARGE = 32 * MIB
WITHIN_S = 10.0  # what is to come is there by then
GUARD = 0xEE  # of memory around what a landing was given


@dataclass
class Rig:
    """One kind of channel. A file in `contract/channels/` makes it: `RIGS: dict[str, Callable[[], Rig]]`."""

    kind: ChannelKind
    endpoint: Callable[[], AbstractAsyncContextManager[Endpoint]]  # one that listens, and dials


class Hold:
    """Something that is alive as long as somebody holds it."""


@dataclass
class Memory:
    """A slot's memory with a guard around it."""

    bytes: int
    whole: bytearray = field(init=False)
    hold: Hold | None = field(default_factory=Hold)

    GUARD_BYTES = 64
    PAGE_BYTES = 4096

    def __post_init__(self) -> None:
        self.whole = bytearray([GUARD]) * (self.bytes + 2 * self.GUARD_BYTES)

    @property
    def view(self) -> memoryview:
        return memoryview(self.whole)[self.GUARD_BYTES : self.GUARD_BYTES + self.bytes]

    def slot(self) -> LandingSlot:
        return LandingSlot(self.view, self.hold)

    @property
    def is_guarded(self) -> bool:
        """Whether what lies around it is untouched."""
        guard = bytes([GUARD]) * self.GUARD_BYTES
        return self.whole.startswith(guard) and self.whole.endswith(guard)

    def mark(self) -> None:
        """Use it for something else, sooner than a piece that still comes could pass by: a byte of each page."""
        self.whole[:: self.PAGE_BYTES] = bytes([GUARD]) * len(self.whole[:: self.PAGE_BYTES])

    @property
    def is_marked(self) -> bool:
        """Whether nothing was written since, wherever it was marked."""
        pages = self.whole[:: self.PAGE_BYTES]
        return pages.count(GUARD) == len(pages)

    @property
    def is_untouched(self) -> bool:
        return self.whole.count(GUARD) == len(self.whole)


class Heard:
    """What `arrived` was told."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.batches_max = 0
        self._news = anyio.Event()

    def __call__(self, numbers: Sequence[int]) -> None:
        self.numbers.extend(numbers)
        self.batches_max = max(self.batches_max, len(numbers))
        self._news.set()

    async def begin(self, memory: Memory) -> None:
        """Until a first byte of `memory` is written, looked for at each step of the loop; or something was told."""
        with anyio.fail_after(WITHIN_S):
            while memory.view[0] == GUARD and not self.numbers:
                await anyio.lowlevel.checkpoint()

    async def wait(self, count: int) -> None:
        """Until so many were told of."""
        with anyio.fail_after(WITHIN_S):
            while len(self.numbers) < count:
                self._news = anyio.Event()
                await self._news.wait()


@dataclass
class Side:
    """One end of a connection: where it lands, what it heard."""

    connection: Connection

    def open(self, *memories: Memory) -> tuple[Landing, Heard]:
        heard = Heard()
        landing = self.connection.open_landing([one.slot() for one in memories], heard)
        return landing, heard


def piece(
    payload: bytes | bytearray | memoryview,
    *,
    number: int = 0,
    slot: int = 0,
    offset: int = 0,
    hold: object = None,
) -> Piece:
    return Piece(number, slot, offset, memoryview(payload), hold)


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


async def connect(
    dialer: Endpoint, listener: Endpoint, secret: bytes | None = None
) -> tuple[Side, Side]:
    """A connection, as its dialer and its listener have it."""
    shown = secret or new_secret()
    accepted: list[Connection] = []
    news = anyio.Event()

    def accept(connection: Connection) -> None:
        accepted.append(connection)
        news.set()

    listener.expect(shown, accept)
    dialled = await dialer.dial(listener.offer(), shown, within=WITHIN_S)
    with anyio.fail_after(WITHIN_S):
        await news.wait()
    (one,) = accepted
    return Side(dialled), Side(one)


@dataclass
class Pair:
    """Two endpoints with one connection."""

    near: Side  # who dialled
    far: Side
    dialer: Endpoint
    listener: Endpoint


@asynccontextmanager
async def paired(rig: Rig) -> AsyncIterator[Pair]:
    async with rig.endpoint() as dialer, rig.endpoint() as listener:
        near, far = await connect(dialer, listener)
        yield Pair(near, far, dialer, listener)


async def gone(*watched: weakref.ReferenceType[Hold]) -> None:
    """Until nobody holds them any more."""

    async def look() -> bool:
        if any(one() is not None for one in watched):
            gc.collect()  # frames of a task that was cancelled refer to each other
        return all(one() is None for one in watched)

    await eventually(look, within=WITHIN_S, what="the holds are let go")


async def refused(side: Side, count: int) -> None:
    """Until so many pieces were refused at this side."""

    async def look() -> bool:
        return side.connection.statistics.pieces_refused >= count

    await eventually(look, within=WITHIN_S, what=f"{count} pieces are refused")


# The suite: scenes that every kind plays.

Scene = Callable[[Pair], Awaitable[None]]


def rigs() -> dict[str, Callable[[], Rig]]:
    found: dict[str, Callable[[], Rig]] = {}
    folder = Path(__file__).parents[1] / "contract" / "channels"
    for path in sorted(folder.glob("[a-z]*.py")):
        found |= importlib.import_module(f"contract.channels.{path.stem}").RIGS
    return found


every_kind = pytest.mark.parametrize("make", [*rigs().values()], ids=[*rigs()])
# A piece of 32 MiB is compared, or filled anew, in one step of the loop that is the test's own.
with_large_memory = pytest.mark.loop_step_ms(200)


def play(make: Callable[[], Rig], scene: Scene) -> None:
    async def run() -> None:
        async with paired(make()) as pair:
            await scene(pair)

    anyio.run(run)


def pattern(length: int, seed: int = 1) -> bytes:
    """Bytes that are nowhere the same, cheaply."""
    block = random.Random(seed).randbytes(min(length, 64 * KIB + 7))
    return (block * (length // max(len(block), 1) + 1))[:length]


async def send_and_see(pair: Pair, payload: bytes, *, number: int = 7) -> None:
    """One piece goes through, so the connection lives."""
    memory = Memory(len(payload))
    landing, heard = pair.far.open(memory)
    await pair.near.connection.send(landing.grant, [piece(payload, number=number)])
    await heard.wait(1)
    assert heard.numbers == [number]
    assert memory.view == payload
    await landing.close()
