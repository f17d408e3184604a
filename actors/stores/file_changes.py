r"""Saves and deletions in one folder of a file store, by an engine of its own.

    under way -> done
             \-> given up, and goes on -> done
                                      \-> for longer than HANGS_S: the folder hangs, and is given no more to do until
                                          that is done

The thread that changes a folder waits for the journal of its disk: neither loads nor the other folders shall.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from penstock._native import Durability
from penstock.actors.stores.given_up import GivenUp
from penstock.actors.stores.native_io import FileToWrite, Moves, Name, NativeIo

HANGS_S = 1.0  # after somebody gave up, which is long after a disk should have answered
HANGING = -4096
"""The outcome of what was not begun, since its folder hangs. No errno."""


class FolderChanges:
    """Whatever is given up goes on; a change of the same object that comes later waits for it."""

    def __init__(self, io: NativeIo) -> None:
        self._io = io
        self._given_up = GivenUp()
        self._given_up_s: dict[Moves, float] = {}  # what goes on, oldest first; times of the loop

    def is_hanging(self) -> bool:
        oldest_s = next(iter(self._given_up_s.values()), None)
        return oldest_s is not None and oldest_s + HANGS_S <= _now()

    async def write(
        self,
        files: Sequence[FileToWrite],
        durability: Durability,
        holds: Sequence[object],
        keys: Collection[bytes],
    ) -> list[int]:
        """Bytes of each, -errno, or HANGING. `keys`: whose files they are."""
        return await self._change(keys, lambda: self._io.write_files(files, durability, holds))

    async def remove(self, names: Sequence[Name], keys: Collection[bytes]) -> list[int]:
        """Of each 0, -errno, or HANGING."""
        return await self._change(keys, lambda: self._io.remove_files(names))

    def why(self, outcome: int) -> str:
        """What an outcome below zero says."""
        if outcome != HANGING:
            return self._io.why(outcome)
        return "its folder hangs, and is given no more to do until it answers"

    async def aclose(self) -> None:
        await self._io.aclose()

    async def _change(self, keys: Collection[bytes], begin: Callable[[], Moves]) -> list[int]:
        if self.is_hanging():
            return [HANGING] * len(keys)
        await self._given_up.after(keys)
        moved = begin()
        try:
            return await asyncio.shield(moved)
        finally:
            if not moved.done():
                self._given_up.add(moved, *keys)
                self._given_up_s[moved] = _now()
                moved.add_done_callback(self._forget)

    def _forget(self, moved: Moves) -> None:
        del self._given_up_s[moved]


def _now() -> float:
    return asyncio.get_running_loop().time()
