"""The actor around one store: all that every store needs, once.

    CLOSED --opened--> RECOVERING --counted--> OPEN <--probe answered-- BROKEN
       ^  '-refused: the node does not start     '------breaker opens----^
       '-- cannot be reached: tried again, in the background

A store that others write too has nothing to count and is OPEN at once. While it is not open, nothing is found on it,
and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import assert_never

import anyio

from penstock.actors.api import store as api
from penstock.actors.api.store import (
    Keys,
    Loaded,
    LoadOutcome,
    Saved,
    SaveOutcome,
    Speed,
    StoreState,
    StoreUsage,
)
from penstock.actors.core.admission import Work
from penstock.actors.core.breaker import BreakerState
from penstock.actors.store_ahead import read_ahead
from penstock.actors.store_arenas import change_arenas
from penstock.actors.store_dropping import drop
from penstock.actors.store_loading import load, load_at_once, locate, locate_at_once
from penstock.actors.store_parts import Parts, StoreTools, open_parts, watch_levels
from penstock.actors.store_probing import probe, try_reads, try_writes
from penstock.actors.store_recovery import recover
from penstock.actors.store_saving import Saver
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.store import Store, StoreFault
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log
from penstock.runtime.message import NOT_AT_ONCE, answer
from penstock.runtime.telemetry import Telemetry

OPEN_PAUSE_S = 0.5  # before the second attempt to open it; doubled each time
OPEN_PAUSE_S_MAX = 30.0
CLOSE_WITHIN_S = 5.0


class NotOpen(StoreFault):
    """Theirs: the store could not be opened yet. It is tried again in the background."""


class StoreActor(api.StoreActor):
    """One store. `open_store` gives it, opened anew in every life of this actor, and closed before that."""

    inflight_max = (
        4096  # above twice the largest waiting_max, so that those who wait hold up nobody
    )

    def __init__(
        self,
        open_store: Callable[[], Awaitable[Store]],
        *,
        config: StoreConfig,
        tools: StoreTools,
        telemetry: Telemetry,
    ) -> None:
        self._open_store = open_store
        self._config = config
        self._tools = tools
        self._telemetry = telemetry
        self._parts: Parts | None = None  # set once it is open
        self._saver: Saver | None = None  # set together with _parts
        self._trouble = "it is being opened"  # why _parts is not set
        self._log = Log(f"store[{config.name}]")

    async def on_start(self) -> None:
        """Opens the store, but waits for no recovery. Raises StoreRefused, and nothing else of PenstockErrors."""
        if not await self._try_to_open():
            self.start_soon(self._keep_opening, name="keep opening")

    async def on_stop(self) -> None:
        if self._parts is None or self._saver is None:
            return
        await self._saver.wait_idle()
        await self._close(self._parts.store)

    async def receive(self, msg: api.Message) -> object:
        match msg:
            case api.Locate():
                return answer(msg, await self._locate(msg))
            case api.ReadAhead():
                return answer(msg, None)  # whoever waits for this asks for the load itself
            case api.Load():
                return answer(msg, await self._load(msg))
            case api.Save():
                return answer(msg, await self._save(msg))
            case api.Touch():
                self._touch(msg.keys)
                return answer(msg, None)
            case api.Delete():
                return answer(msg, await self._delete(msg.keys))
            case api.Measure():
                return answer(msg, self._measure())
            case api.MeasureSpeed():
                return answer(msg, self._measure_speed())
            case api.ListArenas() | api.AddArena() | api.DrainArena() | api.RemoveArena():
                return answer(msg, await self._change_arenas(msg))
            case _:
                assert_never(msg)

    def receive_at_once(self, msg: api.Message) -> object:
        """What the books say, and what is at hand."""
        parts = self._parts
        if parts is None:
            return NOT_AT_ONCE
        told: object = None
        match msg:
            case api.Locate():
                told = locate_at_once(parts, msg)
            case api.ReadAhead():
                told = read_ahead(parts, msg.targets)
            case api.Load() if msg.ahead is None:
                told = load_at_once(parts, msg.targets)
            case api.MeasureSpeed():
                told = self._measure_speed()
        return NOT_AT_ONCE if told is None else told

    # Opening.

    async def _try_to_open(self) -> bool:
        """Whether it is open now. Raises StoreRefused."""
        within_s = self._config.open_within
        store: Store | None = None
        try:
            with anyio.move_on_after(within_s):
                store = await self._open_store()
        except StoreFault as fault:
            self._trouble = str(fault)
        else:
            self._trouble = f"it could not be opened within {within_s:g} s"
        if store is None:
            self._log.warning_once("not_open", self._trouble, reason=self._trouble)
            return False
        self._begin(store)
        return True

    async def _keep_opening(self) -> None:
        pause_s = OPEN_PAUSE_S
        while True:
            await anyio.sleep(pause_s)
            try:
                if await self._try_to_open():
                    return
            except (
                PenstockError
            ) as refusal:  # the node runs already: it is told in health, not by its end
                self._trouble = str(refusal)
                self._log.warning_once("refused", self._trouble, reason=self._trouble)
            pause_s = min(2 * pause_s, OPEN_PAUSE_S_MAX)

    def _begin(self, store: Store) -> None:
        parts = open_parts(
            store,
            config=self._config,
            tools=self._tools,
            telemetry=self._telemetry,
            start_soon=lambda work: self.start_soon(work, name=f"store[{self._config.name}] job"),
        )
        watch_levels(parts)
        self._parts, self._saver = parts, Saver(parts)
        if parts.ledger is None:
            parts.recovered.set()
        else:
            self.start_soon(recover, parts, name="recover")
        self.start_soon(probe, parts.reads, partial(try_reads, parts), name="probe reads")
        self.start_soon(probe, parts.writes, partial(try_writes, parts), name="probe writes")
        self.start_soon(self._close_in_any_case, store, name="close")

    async def _close_in_any_case(self, store: Store) -> None:
        """When this actor ends otherwise than by `on_stop`, too: by a crash, or cancelled as it took too long."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self._close(store)

    async def _close(self, store: Store) -> None:
        with anyio.move_on_after(CLOSE_WITHIN_S) as time:
            await store.aclose()
        if time.cancelled_caught:
            self._log.warning("not_closed", within_s=CLOSE_WITHIN_S)

    # Messages.

    async def _locate(self, msg: api.Locate) -> bytes:
        return bytes(len(msg.keys)) if self._parts is None else await locate(self._parts, msg)

    async def _load(self, msg: api.Load) -> tuple[Loaded, ...]:
        if self._parts is None:
            return (Loaded(LoadOutcome.FAILED, reason=self._trouble),) * len(msg.targets)
        return await load(self._parts, msg)

    async def _save(self, msg: api.Save) -> tuple[Saved, ...]:
        if self._saver is None:
            return (Saved(SaveOutcome.FAILED, self._trouble, is_passing=True),) * len(msg.sources)
        return await self._saver.save(msg.sources)

    def _touch(self, keys: Keys) -> None:
        if self._parts is not None and self._parts.ledger is not None:
            self._parts.ledger.touch(keys.packed)

    async def _change_arenas(self, msg: api.ArenaMessage) -> tuple[api.ArenaUsage, ...]:
        if self._parts is None:
            raise NotOpen(self._trouble)
        return await change_arenas(self._parts, msg)

    async def _delete(self, keys: Keys) -> int:
        if self._parts is None:
            raise NotOpen(self._trouble)
        if not len(keys):
            return 0
        return await drop(self._parts, keys, within_s=self._config.save_within)

    def _measure(self) -> StoreUsage:
        name, parts = self._config.name, self._parts
        if parts is None:
            nothing = (0,) * 5
            return StoreUsage(name, StoreState.BROKEN, *nothing, f"not open: {self._trouble}")
        state, detail = _state(parts)
        return StoreUsage(
            name,
            state,
            objects=parts.objects,
            used_bytes=parts.used_bytes,
            capacity_bytes=parts.capacity_bytes,
            loads_waiting=parts.gate.waiting(Work.LOAD),
            saves_waiting=parts.gate.waiting(Work.SAVE),
            detail=detail,
        )

    def _measure_speed(self) -> Speed:
        parts = self._parts
        if parts is None:
            return Speed(0.0, 0.0, 0)
        return Speed(parts.speed.latency_s(), parts.speed.bytes_per_s(), parts.gate.load_bytes())


def _state(parts: Parts) -> tuple[StoreState, str]:
    broken = [
        f"{side} fail: {guard.reason}; tried again in {guard.probe_in_s():.1f} s"
        for side, guard in (("reads", parts.reads), ("writes", parts.writes))
        if guard.state is not BreakerState.CLOSED
    ]
    if broken:
        return StoreState.BROKEN, "; ".join(broken)
    if parts.recovery.trouble and not parts.recovered.is_set():
        return StoreState.BROKEN, f"it cannot be counted: {parts.recovery.trouble}; saves wait"
    if not parts.recovered.is_set():
        return StoreState.RECOVERING, f"{parts.objects} objects counted so far; saves wait"
    owed = parts.owed.objects.total()
    return StoreState.OPEN, f"{owed} objects of failed saves are to be deleted" if owed else ""
