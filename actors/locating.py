"""Which tiers have which objects of a prompt: asked of all at once, slice by slice, as long as there is no hole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import create_task_group

from penstock.actors.api import l1, l1_loading, prefetch, store
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.core.load_plan import Known, full_hole
from penstock.actors.loads import First, Tier
from penstock.actors.object_keys import object_keys_in_steps
from penstock.runtime.errors import PenstockError
from penstock.runtime.ref import Ref


class News:
    """That something has changed, and how often: whoever waits for it looks first."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()  # replaced whenever it is set

    def tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        self.count += 1
        changed.set()

    async def wait(self) -> None:
        """Until something changes after now."""
        await self._changed.wait()


@dataclass(slots=True)
class Glance:
    """What was seen of a prompt's next chunks, one or all, in the very step that asked for it."""

    presence: bytes  # in L1; empty while nobody has looked
    names: store.Keys
    found: dict[int, bytes]  # by tier: the answers of those that gave one at once
    is_all: bool = False  # up to the prompt's end, and little enough to be brought in that step
    first: First | None = None  # begun in that step, too

    def take_first(self) -> First | None:
        """For whoever carries it on: who only knows what was seen is not to hold its memory."""
        first, self.first = self.first, None
        return first


class Locating:
    """Fills in what is known of one ticket's prompt. A slow or broken tier has nothing; others go on without it."""

    def __init__(
        self,
        want: prefetch.Fetch,
        known: Known,
        tiers: Sequence[Tier],
        manager: Ref[l1.L1Manager],
        *,
        slice_chunks: int,
        ask_s: float,
        news: News,
    ) -> None:
        """`slice_chunks`: of the first slice; each next one has twice as many."""
        self.is_over = False
        self._want = want
        self._known = known
        self._tiers = tiers
        self._l1 = manager
        self._slice_chunks = slice_chunks
        self._ask_s = ask_s
        self._news = news
        self._names = bytearray()  # keys of the known objects, chunk-major
        self._mute: set[int] = set()  # tiers that did not answer in time, or could not
        self._asking = 0  # locates under way
        self._glance: Glance | None = None

    def keys(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Of known objects, by chunk and slot."""
        names, width, first = self._names, len(self._want.shape.slots), self._known.first
        starts = [((chunk - first) * width + slot) * KEY_BYTES for chunk, slot in places]
        return [bytes(names[start : start + KEY_BYTES]) for start in starts]

    def begin(self, glance: Glance) -> None:
        """What it tells is not asked again."""
        self._glance = glance
        self._learn(glance)
        for number, answers in glance.found.items():
            self._known.found(number, self._known.first, answers)

    def forget(self) -> None:
        """The keys and what is known of them: for a ticket that waits for nothing more."""
        self._names.clear()
        self._known.forget()
        self._glance = None

    async def run(self) -> None:
        """Most prompts end early, and then little was asked for. Raises what L1 refuses."""
        start, size, seen = self._known.first, self._slice_chunks, self._glance
        total = len(self._want.keys) // KEY_BYTES
        async with create_task_group() as asks:
            while start < total and full_hole(self._known) >= start:
                if seen is None:
                    seen = await self._survey(start, min(total, start + size))
                    size = 2 * size
                for number in range(len(self._tiers)):
                    if number not in self._mute and number not in seen.found:
                        self._asking += 1
                        asks.start_soon(self._ask, number, start, seen.names, name="locate in tier")
                start, seen = self._known.end, None
                while full_hole(self._known) < start and self._asking:
                    await self._news.wait()
        self.is_over = True
        self._news.tell()

    async def _survey(self, start: int, end: int) -> Glance:
        shape = self._want.shape
        keys = self._want.keys[start * KEY_BYTES : end * KEY_BYTES]
        survey = l1_loading.Survey(keys, shape.geometry)
        presence = await self._l1.ask(survey, within=self._ask_s)
        names = await object_keys_in_steps(shape, keys, range(len(shape.slots)))
        seen = Glance(presence, names, {})
        self._learn(seen)
        return seen

    def _learn(self, seen: Glance) -> None:
        self._names += seen.names.packed
        self._known.grow(seen.presence)

    async def _ask(self, number: int, start: int, names: store.Keys) -> None:
        tier = self._tiers[number]
        try:
            answers = await tier.ref.ask(store.Locate(names), within=tier.locate_s)
            self._known.found(number, start, answers)
        except PenstockError:
            self._mute.add(number)
        finally:
            self._asking -= 1
            self._news.tell()
