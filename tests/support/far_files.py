"""A filesystem of fsspec whose calls do what a test says: the library's own in memory, with trouble on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from penstock.actors.stores.fsspec_store import FsspecStore

Trouble = Callable[[], object]


class FarFiles:
    """`troubles`, by the name of a call, come before it."""

    def __init__(self) -> None:
        self.troubles: dict[str, Trouble] = {}
        self._files = MemoryFileSystem(skip_instance_cache=True)

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if name in self.troubles:
                self.troubles[name]()
            return found(*args, **named)

        found = getattr(self._files, name)
        return call if callable(found) else found

    def under(self, store: FsspecStore) -> FsspecStore:
        """`store`, over these files."""
        store._system._system = self
        return store


def raising(error: BaseException) -> Trouble:
    """As a library does that keeps its error in a variable, which makes a circle of it and its frames."""

    def trouble() -> None:
        kept = error
        raise kept

    return trouble
