"""Files of a shared folder that were not saved again for too long, and are removed: nobody else evicts there.

    OLD -taken aside-> GONE
     ^       '-saved again meanwhile: put back

One thread looks at all of them, some at a time, from when the store is opened until it is closed. Age is told by the
clock that stamps the files. Of several nodes that share the folder each does so; whoever comes first removes.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, product

from penstock.actors.api.types import KEY_BYTES
from penstock.actors.stores.file_folder import Folder
from penstock.actors.stores.store import StoreFault
from penstock.actors.stores.threads import on_a_thread
from penstock.runtime.log import Log

ROUNDS = 10  # in the time an object lives: it goes when it is no more than a tenth older
EVERY_S_MIN, EVERY_S_MAX = 1.0, 3600.0
BATCH = 256  # looked at between two pauses
PAUSE_S = 0.01
_HEX = "0123456789abcdef"
_is_object = re.compile(f"[0-9a-f]{{{2 * KEY_BYTES}}}").fullmatch


class Expiry:
    """Of one store. Belongs to the loop, but for what its thread does."""

    def __init__(self, folders: Sequence[Folder], ttl_s: float, log: Log) -> None:
        """Begins. Raises NoThread."""
        self._folders = folders
        self._ttl_s = ttl_s
        self._log = log
        self._stop = threading.Event()
        self._over: asyncio.Future[None] = on_a_thread("file expiry", self._run)

    async def stop(self) -> None:
        """When the file that is being looked at has been seen to. Idempotent."""
        self._stop.set()
        await asyncio.shield(self._over)

    def _run(self) -> None:
        every_s = min(max(self._ttl_s / ROUNDS, EVERY_S_MIN), EVERY_S_MAX)
        while not self._stop.is_set():
            for folder in self._folders:
                self._sweep(folder)
            self._stop.wait(every_s)

    def _sweep(self, folder: Folder) -> None:
        removed = 0
        try:
            before_s = folder.now_s() - self._ttl_s
            for name in self._names(folder):
                removed += expire(folder, name, before_s)
        except (OSError, StoreFault) as error:
            self._log.warning_once("not_expired", folder.path, path=folder.path, reason=f"{error}")
        if removed:
            self._log.info("objects_expired", path=folder.path, objects=removed)

    def _names(self, folder: Folder) -> Iterator[str]:
        """Of all objects below it, with pauses, until the end is wanted. Raises OSError."""
        for first, second in product(_HEX, _HEX):
            below = f"objects/{first}/{second}"
            with os.scandir(folder.path / below) as found:
                while batch := [*islice(found, BATCH)]:
                    for one in batch:
                        if self._stop.is_set():
                            return
                        if _is_object(one.name):
                            yield f"{below}/{one.name}"
                    self._stop.wait(PAUSE_S)


def expire(folder: Folder, name: str, before_s: float) -> bool:
    """Remove the object if it was saved before then, and whether it was. Blocks. Raises OSError."""
    place, aside = folder.path / name, folder.path / folder.temporary()
    with suppress(FileNotFoundError):  # deleted, or removed by another node
        if place.stat(follow_symlinks=False).st_mtime >= before_s:
            return False
        place.rename(aside)
        if aside.stat().st_mtime < before_s:
            aside.unlink()
            return True
        aside.rename(place)  # saved again between the two
    return False
