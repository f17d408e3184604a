"""Transforms of what lies on a store: applied in order when an object is saved, undone in reverse when it is loaded.

    logical bytes -fp8-> -zstd-> -aesgcm-> stored bytes        its header names those that were applied

All of this is plain work on memory, to be done outside the loop's thread. A step may leave an object as it is, where
it would gain nothing; one that is required may not, and what was stored without it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from penstock._native import copy_bytes
from penstock.actors.stores.header import Header
from penstock.runtime.errors import UnavailableError

SEPARATOR = b"+"


class Unreadable(UnavailableError):
    """Theirs: what was stored cannot be turned into what had been saved."""


class Locked(Unreadable):
    """Yours: it is whole, for all that is known, and cannot be read as this store is configured now."""


class Declined(UnavailableError):
    """Yours: this object is not to be kept on this store."""


class Abandoned(UnavailableError):
    """Yours: nobody waits for this any more."""


class Effort:
    """Whether somebody waits for a piece of work still. Told by the loop, asked by whoever works, on any thread."""

    def __init__(self) -> None:
        self._is_given_up = False

    def give_up(self) -> None:
        self._is_given_up = True

    def check(self) -> None:
        """To be called every few tens of milliseconds. Raises Abandoned."""
        if self._is_given_up:
            raise Abandoned("it was given up")


class Step(Protocol):
    """One transform. Any number of threads at a time."""

    name: bytes  # in headers
    is_required: bool  # nothing is stored without it

    def apply(
        self, header: Header, source: memoryview, room: memoryview, effort: Effort, /
    ) -> tuple[Header, memoryview] | None:
        """Write what `source` becomes to the start of `room`, which has as many bytes, in whole blocks.

        `header` says already that this step was applied, and `stored_bytes` of `source`. None: it is to stay as it
        is. Raises Declined, Abandoned.
        """

    def undo(
        self, header: Header, stored: memoryview, room: memoryview, effort: Effort, /
    ) -> tuple[Header, memoryview]:
        """Write what `stored` was made of to the start of `room`, and never beyond it. Raises Unreadable, Abandoned."""


class Pipeline:
    """Steps, in the order they are applied."""

    def __init__(self, steps: Sequence[Step]) -> None:
        assert steps, "a store without transforms has no pipeline"
        self._steps = tuple(steps)
        self.rooms = min(len(steps), 2)  # that an object needs at a time, each as large as itself

    def apply(
        self, header: Header, payload: memoryview, rooms: Sequence[memoryview], effort: Effort
    ) -> tuple[Header, memoryview | None]:
        """The header on the store, and the room that the stored bytes are at the start of; None: they are `payload`.

        Raises Declined, Abandoned.
        """
        names = list[bytes]()
        stored, room = payload, None
        for step in self._steps:
            transform = SEPARATOR.join([*names, step.name])
            told = replace(header, transform=transform, stored_bytes=len(stored))
            next_room = rooms[len(names) % 2]
            effort.check()
            made = step.apply(told, stored, next_room, effort)
            if made is None:
                assert not step.is_required, step.name
                continue
            header, stored = made
            room = next_room
            names.append(step.name)
        told = replace(header, transform=SEPARATOR.join(names), stored_bytes=len(stored))
        return told, room

    def undo(
        self, header: Header, rooms: Sequence[memoryview], target: memoryview, effort: Effort
    ) -> Header:
        """Fill `target` with the logical bytes of the object that is stored at the start of the first room.

        Returns its header as it was when it was saved. Raises Unreadable, Abandoned.
        """
        steps = self._applied(header.transform)
        stored = rooms[0][: header.stored_bytes]
        for number, step in enumerate(reversed(steps), start=1):
            room = target if number == len(steps) else rooms[number % 2]
            effort.check()
            header, stored = step.undo(header, stored, room, effort)
        if len(stored) != len(target):
            raise Unreadable(f"it has {len(stored)} bytes, not the {len(target)} its header tells")
        if not steps:
            copy_bytes(source=stored, target=target)
        return replace(header, transform=b"", stored_bytes=header.logical_bytes)

    def _applied(self, transform: bytes) -> list[Step]:
        """Raises Locked unless they are steps of ours, in our order, with all that are required."""
        names = transform.split(SEPARATOR) if transform else []
        steps = [step for step in self._steps if step.name in names]
        if [step.name for step in steps] != names:
            raise Locked(f"it was stored with {_said(transform)}, which this store has not")
        missing = [step.name for step in self._steps if step.is_required and step not in steps]
        if missing:
            raise Locked(f"it was stored with {_said(transform)}, and not {_said(missing[0])}")
        return steps


def _said(names: bytes) -> str:
    return names.decode(errors="backslashreplace") if names else "no transform"
