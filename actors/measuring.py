"""How fast the tiers are, as one ticket knows it: each is asked before it is asked what it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from anyio.abc import TaskGroup

from penstock.actors.api.store import MeasureSpeed, Speed
from penstock.actors.loads import Tier
from penstock.runtime.errors import PenstockError
from penstock.runtime.message import NOT_AT_ONCE


class Measuring:
    """Nobody waits for a tier that does not say how fast it is: until it does, it costs nothing."""

    def __init__(self, tiers: Sequence[Tier], *, heard: Callable[[], None]) -> None:
        """`heard` is called when a tier has said so later than at once."""
        self.speeds = [Speed(0.0, 0.0, 0)] * len(tiers)
        self._tiers = tiers
        self._heard = heard

    def begin(self, tasks: TaskGroup) -> None:
        for number, tier in enumerate(self._tiers):
            with suppress(PenstockError):
                speed = tier.ref.ask_now(MeasureSpeed())
                if speed is NOT_AT_ONCE:
                    tasks.start_soon(self._measure, number, tier, name="measure tier")
                else:
                    self.speeds[number] = speed

    async def _measure(self, number: int, tier: Tier) -> None:
        with suppress(PenstockError):
            self.speeds[number] = await tier.ref.ask(MeasureSpeed(), within=tier.locate_s)
            self._heard()
