"""The directory: tells peers which chunks this node has, and says which of them to ask.

    L1 --Changed--> taken, every `pace` --> filter and log --NextUpdate--> each watching peer
    a peer's updates --PeerUpdate--> its filter --Promised--> who to ask for a prompt

Nothing here is needed to be right: a directory that restarts walks through L1 again, and peers begin to tell anew.
"""

from __future__ import annotations

import asyncio

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api import directory, l1, l1_contents
from penstock.actors.directory_config import DirectoryConfig
from penstock.actors.directory_metrics import DirectoryMetrics
from penstock.actors.directory_own import OwnSummary
from penstock.actors.directory_peers import PeerSummaries
from penstock.runtime.errors import PenstockError
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.message import NOT_AT_ONCE, answer
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry

PAUSE_S_MAX = 5.0  # before L1, which did not answer, is asked again


class Directory(directory.Directory):
    """Shell of `OwnSummary` and `PeerSummaries`. All but `NextUpdate` is answered at once."""

    inflight_max = (
        4096  # those who wait for updates, of whom there may be half as many, and all others
    )

    def __init__(
        self, config: DirectoryConfig, *, manager: Ref[l1.L1Manager], telemetry: Telemetry
    ) -> None:
        self._config = config
        self._l1 = manager
        self._own = OwnSummary(
            backlog_bytes_max=config.backlog_max, watchers_max=config.watchers_max
        )
        self._peers = PeerSummaries(bytes_max=config.bytes_max, peers_max=config.peers_max)
        self._metrics = DirectoryMetrics(telemetry, own=self._own, peers=self._peers)
        self._changed = asyncio.Event()
        self._news = asyncio.Event()  # of updates; replaced each time
        self._log = Log("directory")

    async def on_start(self) -> None:
        self._changed.set()  # what there is already, and what was told to a life before this one
        self.start_soon(self._follow_own, name="follow L1")

    async def receive(self, msg: directory.Message) -> object:
        if isinstance(msg, directory.NextUpdate):
            return answer(msg, await self._next_update(msg))
        return self.receive_at_once(msg)

    def receive_at_once(self, msg: directory.Message) -> object:
        match msg:
            case directory.Promised():
                return answer(msg, self._peers.promised(msg.keys, msg.first_chunk))
            case directory.PeerUpdate():
                heard = self._peers.hear(msg)
                self._metrics.heard(heard, len(msg.update))
                return answer(msg, heard)
            case directory.PeerGone():
                self._peers.gone(msg.node_id)
                return answer(msg, None)
            case directory.Watch():
                return answer(msg, self._own.watch(msg.node_id))
            case directory.Unwatch():
                self._own.unwatch(msg.watch)
                return answer(msg, None)
            case directory.Changed():
                self._changed.set()
                return answer(msg, None)
            case directory.Measure():
                return answer(msg, self._measure())
            case directory.NextUpdate():
                update = self._own.next_update(msg.watch)
                if update is None:
                    return NOT_AT_ONCE
                self._metrics.told(len(update))
                return answer(msg, update)

    # To peers.

    async def _next_update(self, msg: directory.NextUpdate) -> bytes:
        with anyio.move_on_after(msg.within_s):
            while (update := self._own.next_update(msg.watch)) is None:
                await self._news.wait()
            self._metrics.told(len(update))
            return update
        update = self._own.next_update(msg.watch)  # that came in the very moment
        return self._own.still(msg.watch) if update is None else update

    async def _follow_own(self) -> None:
        pause_s: float = self._config.pace
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._learn()
                pause_s = self._config.pace
            except PenstockError as refusal:  # L1 is late, or stops
                self._log.warning_once("l1_not_followed", str(refusal), reason=str(refusal))
                self._changed.set()  # it was told once, and may not be told again
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
            await anyio.sleep(pause_s)

    async def _learn(self) -> None:
        """All that is to be learned now. Raises PenstockError."""
        is_last = False
        while not is_last:
            if not self._own.is_known:
                await self._walk()
            take = l1_contents.TakeChanges(self._config.batch_chunks)
            taken = await self._l1.ask(take, within=self._config.ask_within)
            if taken.is_lost or not self._own.change(taken.added, taken.gone):
                self._own.forget()
                self._metrics.walks.add()
                continue
            is_last = taken.is_last
            self._tell()
            await hazard("directory.changes_taken")
            await checkpoint()

    async def _walk(self) -> None:
        """Through all that L1 has. Raises PenstockError."""
        cursor, is_over = 0, False
        while not is_over:
            ask = l1_contents.ResidentKeys(cursor, self._config.batch_chunks)
            try:
                step = await self._l1.ask(ask, within=self._config.ask_within)
            except l1_contents.Interrupted:
                cursor = 0
                await anyio.sleep(self._config.pace)
                continue
            if cursor == 0:
                self._own.begin(step.chunks)
            cursor, is_over = step.cursor, step.is_over
            if not self._own.learn(step.keys):
                cursor, is_over = 0, False
            await hazard("directory.step_walked")
            await checkpoint()
        self._own.known()
        self._tell()

    def _tell(self) -> None:
        """Whoever waits for an update looks again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    # Numbers.

    def _measure(self) -> directory.DirectoryMeasure:
        own, peers = self._own, self._peers
        return directory.DirectoryMeasure(
            own_keys=own.keys,
            own_bytes=own.summary_bytes,
            is_own_known=own.is_known,
            sequence=own.sequence,
            backlog_bytes=own.backlog_bytes,
            watchers=own.watchers,
            peers=peers.measure(),
            peers_bytes=peers.bytes,
            bytes_max=self._config.bytes_max,
            resyncs=peers.resyncs,
            refused=peers.refused,
            dropped=peers.dropped,
        )

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        self._own.validate()
        self._peers.validate()
