"""Who else is there: the other nodes of a cluster, from a list, from etcd, or from DNS.

A source of members lives while it is entered, and never raises after that: when what it asks is down, slow or empty,
it goes on with the last members known and says so in `degraded`. Which links are alive is for the links to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
from anyio import CancelScope

from penstock.runtime.errors import UnavailableError


class MembershipFailed(UnavailableError):
    """Theirs: the source of members did not answer, or not as it should."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node, as the source of members knows it."""

    node_id: str
    address: str  # host:port of its service for peers
    boot: bytes = b""  # names one life of it; empty where the source does not know


class Membership(Protocol):
    """A source of members. Belongs to the loop."""

    @property
    def members(self) -> tuple[Member, ...]:
        """Without this node; sorted by id; each id once. Who is not among them any more is not dialled again; a link
        that is there may stay."""

    @property
    def degraded(self) -> str:
        """Empty, or one sentence: what is wrong with the source. Running links stay."""

    async def wait_changed(self, seen: int) -> int:
        """A count of the changes of `members` and `degraded` so far, once it is above `seen`; begin with 0. Raises
        nothing but bugs of the source, which end whoever follows it."""

    async def announce(self, me: Member) -> None:
        """Tell the source where this node is, where it has to be told. Does not wait for it to be heard."""

    async def aclose(self) -> None:
        """Take this node away from the source, where it was announced, if that can be done within a moment."""


class Roll:
    """What a source knows, and who waits for a change of it. The part that all sources share."""

    def __init__(self, my_id: str, *, members_max: int) -> None:
        self._my_id = my_id
        self._members_max = members_max
        self._members: tuple[Member, ...] = ()
        self._degraded = ""
        self._count = 1  # so that who begins with 0 hears of what is known at once
        self._changed = anyio.Event()
        self._bug: BaseException | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        return self._members

    @property
    def degraded(self) -> str:
        return self._degraded

    async def wait_changed(self, seen: int) -> int:
        while self._count <= seen:
            await self._changed.wait()
        if self._bug is not None:
            raise self._bug
        return self._count

    def know(self, members: dict[str, Member]) -> int:
        """From now on these are the members. Answers how many of them are beyond the bound, and are left out."""
        others = sorted(
            (one for one in members.values() if one.node_id != self._my_id),
            key=lambda one: one.node_id,
        )
        kept = tuple(others[: self._members_max])
        if kept != self._members:
            self._members = kept
            self._tell()
        return len(others) - len(kept)

    def degrade(self, why: str) -> None:
        """From now on this is wrong with the source; empty: nothing."""
        if why != self._degraded:
            self._degraded = why
            self._tell()

    def _tell(self) -> None:
        self._count += 1
        self._changed.set()
        self._changed = anyio.Event()

    def ended(self, task: asyncio.Task[None]) -> None:
        """What keeps this up to date has ended: in order, or by a bug."""
        if not task.cancelled():
            self._bug = task.exception()
            self._tell()


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None], roll: Roll) -> AsyncIterator[None]:
    """Keep `roll` up to date by `work` while the body runs. A bug in it is raised by `wait_changed`."""
    task = asyncio.create_task(work)
    task.add_done_callback(roll.ended)
    try:
        yield
    finally:
        task.cancel()
        with CancelScope(shield=True):
            await asyncio.wait([task])
