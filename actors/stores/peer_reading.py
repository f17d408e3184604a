"""One load from peers, chunk by chunk, and one read of it: what is asked, what has arrived, and whether it is whole."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from operator import add, gt

from penstock.actors.api.peers import LinkLimits, ReadAsk, ReadTold
from penstock.actors.api.store import Target
from penstock.actors.stores.header import DIGEST_BYTES, FIXED_BYTES
from penstock.actors.stores.store import MISSING, Fate, Outcome, Wanted
from penstock.runtime.channel import GRANT_BYTES_MAX, LandingSlot

OBJECT = struct.Struct("<IH")
"""Of ReadAsk.objects: position of the chunk, slot."""
SENT = 1
TOLD_BYTES = 64  # of a request and its answer, for each object beside its header: at most


class PeerLoad:
    """What is wanted, by chunks in the order of their prompt, and what became of it."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        """What says nothing of its chunk, or is of another namespace than the first, is missing."""
        self.wanted = wanted
        self.outcomes = [MISSING] * len(wanted)
        self.namespace = b""
        self.chunks: list[bytes] = []
        self.places: list[list[int]] = []  # positions in `wanted`, by chunk
        numbers: dict[bytes, int] = {}
        for place, one in enumerate(wanted):
            target = one.target
            if target is None or not target.chunk:
                continue
            self.namespace = self.namespace or target.namespace
            if target.namespace != self.namespace:
                continue
            number = numbers.setdefault(target.chunk, len(self.chunks))
            if number == len(self.chunks):
                self.chunks.append(target.chunk)
                self.places.append([])
            self.places[number].append(place)

    def let_go(self) -> None:
        """It is over. What was given up leaves frames behind, which are to hold no memory."""
        self.wanted = ()

    def is_open(self, chunk: int) -> bool:
        """Whether another peer may have what is left of it."""
        return any(self.outcomes[place].fate is Fate.MISSING for place in self.places[chunk])

    def packed(self, chunks: Sequence[int]) -> bytes:
        return b"".join([self.chunks[chunk] for chunk in chunks])

    def open_places(self, chunk: int) -> list[int]:
        return [at for at in self.places[chunk] if self.outcomes[at].fate is Fate.MISSING]

    def cut(self, chunks: Sequence[int], limits: LinkLimits) -> Iterator[list[int]]:
        """These chunks, in reads that the peer takes on. A chunk that is larger alone is one, and is refused there."""
        most = limits.message_bytes_max
        room = max(most - GRANT_BYTES_MAX, most // 2)
        bounds = (limits.read_objects_max, limits.read_bytes_max, room)
        part: list[int] = []
        taken = (0, 0, 0)
        for chunk in chunks:
            own = [self.wanted[at] for at in self.open_places(chunk)]
            payloads = sum([len(one.payload) for one in own])
            told = sum([header_length(target_of(one).runs) + TOLD_BYTES for one in own])
            more = (len(own), payloads, told)
            if part and any(map(gt, map(add, taken, more), bounds)):
                yield part
                part, taken = [], (0, 0, 0)
            part.append(chunk)
            taken = (taken[0] + more[0], taken[1] + more[1], taken[2] + more[2])
        if part:
            yield part

    def take(self, places: Sequence[int], told: ReadTold, there: Collection[int]) -> int:
        """What was sent, and is there. Nothing writes to any of `places` any more. Answers how many came."""
        headers = iter(told.headers)
        came = 0
        for number, (place, outcome) in enumerate(zip(places, told.outcomes, strict=True)):
            if outcome != SENT:
                continue
            header = next(headers, b"")
            if number in there:
                self.outcomes[place] = _taken(self.wanted[place], header)
                came += self.outcomes[place].fate is Fate.DONE
        return came


class PeerPart:
    """What is asked of one peer in one read: what is left of some chunks. The slot and the piece of each object are
    numbered by its position here."""

    def __init__(self, load: PeerLoad, chunks: Sequence[int]) -> None:
        self.load = load
        self.keys = load.packed(chunks)
        self.places = [place for chunk in chunks for place in load.open_places(chunk)]
        numbers = {load.chunks[chunk]: number for number, chunk in enumerate(chunks)}
        targets = [target_of(load.wanted[place]) for place in self.places]
        self._objects = b"".join([OBJECT.pack(numbers[one.chunk], one.slot) for one in targets])

    def ask(self, grant: bytes, doubted: bytes = b"") -> ReadAsk:
        size = sum([len(self.load.wanted[place].payload) for place in self.places])
        return ReadAsk(self.load.namespace, self.keys, self._objects, grant, size, doubted)

    def slots(self) -> list[LandingSlot]:
        wanted = self.load.wanted
        return [LandingSlot(wanted[at].payload, wanted[at].hold) for at in self.places]

    def done(self) -> list[Target]:
        """What came."""
        load = self.load
        done = [at for at in self.places if load.outcomes[at].fate is Fate.DONE]
        return [target_of(load.wanted[at]) for at in done]


def target_of(wanted: Wanted) -> Target:
    """Of what a PeerLoad has in its places."""
    assert wanted.target is not None
    return wanted.target


def _taken(wanted: Wanted, header: bytes) -> Outcome:
    target = target_of(wanted)
    length = header_length(target.runs)
    if len(header) != length:
        reason = f"its header has {len(header)} bytes, and {length} with {target.runs} runs"
        return Outcome(Fate.REFUSED, reason=reason)
    wanted.header[:length] = header
    return Outcome(Fate.DONE, len(wanted.payload))


def header_length(runs: int) -> int:
    """Of a header of so many runs, without the zeros at its end: fixed part, run digests, checksum."""
    return FIXED_BYTES + (runs + 1) * DIGEST_BYTES


class Arrivals:
    """Of the pieces of one read, by their numbers."""

    def __init__(self, count: int, waited: Callable[[float], None]) -> None:
        """`waited` hears how long it was each time until more came."""
        self.there: set[int] = set()
        self.moved_s = asyncio.get_running_loop().time()  # when something came last
        self._count = count
        self._waited = waited
        self._came = asyncio.Event()  # replaced by whoever waits

    def come(self, numbers: Sequence[int]) -> None:
        """Called by the landing."""
        now = asyncio.get_running_loop().time()
        self._waited(now - self.moved_s)
        self.moved_s = now
        self.there.update([number for number in numbers if 0 <= number < self._count])
        self._came.set()

    async def wait(self, numbers: Collection[int]) -> None:
        """Until all of these are there."""
        while not self.there.issuperset(numbers):
            self._came = asyncio.Event()
            await self._came.wait()


class Patience:
    """A look, whenever nothing has come for long, whether to wait any longer: no task, and no timer for each piece."""

    def __init__(self, arrivals: Arrivals, patience_s: float, is_over: Callable[[], bool]) -> None:
        """`is_over`: called in a step of the loop when nothing came for so long; True ends this."""
        self._arrivals = arrivals
        self._patience_s = patience_s
        self._is_over = is_over
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(patience_s, self._look)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self._arrivals.moved_s + self._patience_s - self._loop.time()
        if left_s <= 0 and self._is_over():
            return
        again_s = left_s if left_s > 0 else self._patience_s
        self._timer = self._loop.call_later(again_s, self._look)
