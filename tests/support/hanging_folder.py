"""One folder of a file store whose disk does not answer for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from penstock.actors.stores.file import FileStore
from penstock.actors.stores.native_io import Moves


@contextmanager
def hanging(store: FileStore, number: int) -> Iterator[list[Moves]]:
    """While it is entered, no change is done in this folder; then all are. Yields those that were asked for."""
    io = store._changes[number]._io
    asked: list[Moves] = []
    left: list[Callable[[], None]] = []

    def later(begin: Callable[..., Moves]) -> Callable[..., Moves]:
        def ask(*args: Any) -> Moves:
            told: Moves = asyncio.get_running_loop().create_future()
            asked.append(told)
            left.append(
                lambda: begin(*args).add_done_callback(lambda done: told.set_result(done.result()))
            )
            return told

        return ask

    with (
        mock.patch.object(io, "write_files", later(io.write_files)),
        mock.patch.object(io, "remove_files", later(io.remove_files)),
    ):
        yield asked
    for begin in left:
        begin()
