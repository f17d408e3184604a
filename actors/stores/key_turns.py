"""Who reads and who changes an object, where its medium does not keep the two apart.

    turn = turns.to_change(keys)
    await in_turn(turn, threads, work)

Readers of one object go together, changes one at a time, in the order they came. A turn ends when its work has, on
whatever thread, and not when whoever asked for it has gone: what comes later has the last word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar

from penstock.actors.stores.threads import Threads

Result = TypeVar("Result")
Over = asyncio.Future[None]


class KeyTurns:
    """Turns that are not over, by key. Of one loop."""

    def __init__(self) -> None:
        self._changes: dict[bytes, Over] = {}  # the last one
        self._reads: dict[bytes, set[Over]] = {}  # since then

    def to_read(self, keys: Collection[bytes]) -> Turn:
        """After what changes any of `keys`."""
        turn = Turn({self._changes[key] for key in keys if key in self._changes})
        for key in keys:
            self._reads.setdefault(key, set()).add(turn.over)
        turn.over.add_done_callback(lambda over: self._forget_read(keys, over))
        return turn

    def to_change(self, keys: Collection[bytes]) -> Turn:
        """After what reads or changes any of `keys`."""
        before = {self._changes[key] for key in keys if key in self._changes}
        turn = Turn(before.union(*(self._reads.get(key, ()) for key in keys)))
        for key in keys:
            self._changes[key] = turn.over
            self._reads.pop(key, None)
        turn.over.add_done_callback(lambda over: self._forget_change(keys, over))
        return turn

    async def all_over(self) -> None:
        """Wait until every turn that was begun is over."""
        waiting = {*self._changes.values()}.union(*self._reads.values())
        if waiting:
            await asyncio.wait(waiting)

    def _forget_read(self, keys: Collection[bytes], over: Over) -> None:
        for key in keys:
            readers = self._reads.get(key)
            if readers is not None:
                readers.discard(over)
                if not readers:
                    del self._reads[key]

    def _forget_change(self, keys: Collection[bytes], over: Over) -> None:
        for key in keys:
            if self._changes.get(key) is over:
                del self._changes[key]


class Turn:
    """A place in the order. Whoever has it ends it, once."""

    def __init__(self, before: Collection[Over]) -> None:
        self._before = {over for over in before if not over.done()}
        self.over: Over = asyncio.get_running_loop().create_future()

    async def come(self) -> None:
        """Wait for those before."""
        if self._before:
            await asyncio.wait(self._before)

    def end(self) -> None:
        """At once; or, if it is given up before it came, when those before are over: it does not let others pass."""
        waiting = {over for over in self._before if not over.done()}
        if not waiting:
            self.over.set_result(None)
            return

        def one_is_over(over: Over) -> None:
            waiting.discard(over)
            if not waiting:
                self.over.set_result(None)

        for over in tuple(waiting):
            over.add_done_callback(one_is_over)


async def in_turn(turn: Turn, threads: Threads, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises, on a thread, once `turn` has come. Cancelled, it goes on unheard, in its turn."""
    begun: asyncio.Future[Result] | None = None
    try:
        await turn.come()
        begun = await threads.begin(work)
    finally:
        if begun is None:
            turn.end()
        else:
            begun.add_done_callback(lambda _: turn.end())
    return await asyncio.shield(begun)
