"""All pushes to one node, by one link: they share its call, and end with it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from anyio import create_task_group, sleep

from penstock.actors.api.pd_wire import Abort, Phase, Reason, State, TransferId, Word
from penstock.actors.api.peers import PeerLink
from penstock.actors.locating import News
from penstock.actors.pd_services import LinkStream

PAUSE_S, PAUSE_S_MAX = 0.05, 1.0  # before the next call, doubled for each that was lost at once


class OneWay(Protocol):
    """One push, as its lane sees it."""

    def heard(self, word: Word) -> None: ...

    def stream_back(self) -> None:
        """What was said may have been lost."""

    def lost(self, why: str) -> None:
        """The link is over."""


class Lane:
    """Lives as long as its link."""

    def __init__(self, link: PeerLink) -> None:
        self.link = link
        self._pushes: dict[TransferId, OneWay] = {}
        self._stream = LinkStream(link, self._heard)
        self._added = News()

    def add(self, transfer: TransferId, push: OneWay) -> None:
        self._pushes[transfer] = push
        self._added.tell()

    def remove(self, transfer: TransferId) -> None:
        self._pushes.pop(transfer, None)

    def say(self, word: Word) -> None:
        self._stream.say(word)

    async def run(self) -> None:
        """Until the link is lost."""
        why = ""
        async with create_task_group() as tasks:
            tasks.start_soon(self._keep_calling, name="pd calls")
            why = await self.link.wait_lost()
            tasks.cancel_scope.cancel()
        for push in [*self._pushes.values()]:
            push.lost(why)

    async def _keep_calling(self) -> None:
        pause_s, loop = PAUSE_S, asyncio.get_running_loop()
        while True:
            if not self._pushes:
                await self._added.wait()
            begun = loop.time()
            await self._stream.serve(self._began)
            has_lasted = loop.time() - begun > PAUSE_S_MAX
            pause_s = PAUSE_S if has_lasted else min(PAUSE_S_MAX, 2 * pause_s)
            await sleep(pause_s)

    def _began(self) -> None:
        for push in [*self._pushes.values()]:
            push.stream_back()

    def _heard(self, word: Word) -> None:
        if (push := self._pushes.get(word.transfer)) is not None:
            push.heard(word)
        elif not isinstance(word, Abort) and not _is_end(word):
            self.say(Abort(word.transfer, Reason.STALE, "this push is over"))


def _is_end(word: Word) -> bool:
    return isinstance(word, State) and word.phase in (Phase.COMMITTED, Phase.UNKNOWN)
