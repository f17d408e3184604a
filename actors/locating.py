"""Which tiers have which objects of a prompt: asked of all at once, slice by slice, as long as there is no hole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from anyio import create_task_group

from penstock.actors.api import l1, l1_loading, prefetch, store
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.core.load_plan import Known, full_hole
from penstock.actors.loads import Tier
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

    def key(self, chunk: int, slot: int) -> bytes:
        """The key of a known object."""
        width = len(self._want.shape.slots)
        start = ((chunk - self._known.first) * width + slot) * KEY_BYTES
        return bytes(self._names[start : start + KEY_BYTES])

    async def run(self) -> None:
        """Most prompts end early, and then little was asked for. Raises what L1 refuses."""
        start, size = self._known.first, self._slice_chunks
        total = len(self._want.keys) // KEY_BYTES
        every = range(len(self._want.shape.slots))
        async with create_task_group() as asks:
            while start < total and full_hole(self._known) >= start:
                end = min(total, start + size)
                keys = self._want.keys[start * KEY_BYTES : end * KEY_BYTES]
                survey = l1_loading.Survey(keys, self._want.shape.geometry)
                presence = await self._l1.ask(survey, within=self._ask_s)
                names = await object_keys_in_steps(self._want.shape, keys, every)
                self._names += names.packed
                self._known.grow(presence)
                for number in range(len(self._tiers)):
                    if number not in self._mute:
                        self._asking += 1
                        asks.start_soon(self._ask, number, start, names, name="locate in tier")
                while full_hole(self._known) < end and self._asking:
                    await self._news.wait()
                start, size = end, 2 * size
        self.is_over = True
        self._news.tell()

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
