"""The actor that follows who is there, dials each of them, and keeps the links.

member --> dialled --> linked, its directory followed --> lost: forgotten by the directory, dialled anew after a pause
   '--> gone: its link is ended
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import assert_never

import anyio
from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup

from penstock.actors.api import peers as api
from penstock.actors.api.directory import Directory, Heard, PeerGone, PeerUpdate
from penstock.actors.api.peers import ClusterUsage, PeerAway, PeerLink, PeerState, PeerUsage
from penstock.actors.api.types import Epoch
from penstock.actors.core.backoff import Backoff
from penstock.actors.core.link_words import Over, Refusal
from penstock.actors.peer_codec import NotOurs, update_of
from penstock.actors.peer_dialling import Dialling, DialTools
from penstock.actors.peer_link import DialledLink
from penstock.actors.peer_metrics import LinkMetrics
from penstock.actors.peer_served import ServedLinks
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log
from penstock.runtime.membership import Member, Membership
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref

NO_EPOCH = Epoch(b"")


@dataclass(frozen=True, slots=True)
class KeepLimits:
    pause_s: float  # after a dial that failed; doubled for each next one
    pause_s_max: float
    lasting_s: float  # a link that lasted so long was a good one
    watch_silent_s: float  # a directory that tells nothing for so long is asked anew
    watch_retry_s: float  # one that there was no room for
    ask_s: float


@dataclass(slots=True, eq=False)
class _Kept:
    """One member."""

    member: Member
    backoff: Backoff
    scope: CancelScope
    dialling: Dialling | None = None
    link: DialledLink | None = None
    epoch: Epoch = NO_EPOCH  # of the latest link
    linked_s: float = math.inf  # when the latest link was made
    trouble: str = "it is being dialled"
    woken: asyncio.Event | None = None  # set by news of it, while a pause is waited for
    is_gone: bool = (
        False  # no member any more; but there is a link, which says itself when it is over
    )

    @property
    def is_linked(self) -> bool:
        return self.link is not None and not self.link.is_lost


class Peers(api.Peers):
    """`membership` is entered in every life of this actor."""

    def __init__(
        self,
        membership: Callable[[], AbstractAsyncContextManager[Membership]],
        me: Callable[[], Member],
        tools: DialTools,
        served: ServedLinks,
        directory: Ref[Directory],
        *,
        limits: KeepLimits,
        metrics: LinkMetrics,
        draw: Callable[[], float],
    ) -> None:
        self._open_membership = membership
        self._me = me
        self._tools = tools
        self._served = served
        self._directory = directory
        self._limits = limits
        self._metrics = metrics
        self._draw = draw
        self._membership: Membership | None = None  # while it is entered
        self._kept: dict[str, _Kept] = {}
        self._log = Log("peers")

    async def on_start(self) -> None:
        entered = asyncio.Event()
        self._served.on_life = self._new_life
        self._metrics.watch(self._count_linked, lambda: len(self._kept))
        self.start_soon(self._follow, entered, name="follow membership")
        await entered.wait()

    def receive(self, msg: api.Message) -> object:
        match msg:
            case api.FindLink():
                return answer(msg, self._find(msg.node_id))
            case api.Measure():
                return answer(msg, self._measure())
            case _:
                assert_never(msg)

    def _find(self, node_id: str) -> PeerLink:
        kept = self._kept.get(node_id)
        if kept is None:
            raise PeerAway(f"{node_id} is no member of the cluster")
        if kept.link is None or not kept.is_linked:
            raise PeerAway(f"there is no link to {node_id}: {kept.trouble}")
        return kept.link

    # Members.

    async def _follow(self, entered: asyncio.Event) -> None:
        async with self._open_membership() as membership, create_task_group() as tasks:
            self._membership = membership
            await membership.announce(self._me())
            entered.set()
            seen, told = 0, ""
            while True:
                seen = await membership.wait_changed(seen)
                self._take(membership.members, tasks)
                if membership.degraded not in ("", told):
                    self._log.warning("membership_degraded", reason=membership.degraded)
                told = membership.degraded

    def _take(self, members: tuple[Member, ...], tasks: TaskGroup) -> None:
        """Dial who is new or has moved; let go of who has gone, when the link to it is over: it may be cut off from the
        source of members, and not from here."""
        present = {one.node_id: one for one in members}
        for node_id, kept in [*self._kept.items()]:
            now = present.get(node_id)
            kept.is_gone = now is None
            has_moved = now is not None and now.address != kept.member.address
            if has_moved or (kept.is_gone and not kept.is_linked):
                kept.scope.cancel()
                del self._kept[node_id]
        for node_id, member in present.items():
            if node_id not in self._kept:
                backoff = Backoff(
                    pause_s=self._limits.pause_s,
                    pause_s_max=self._limits.pause_s_max,
                    draw=self._draw,
                )
                kept = self._kept[node_id] = _Kept(member, backoff, CancelScope())
                tasks.start_soon(self._keep, kept, name=f"keep {node_id}")

    async def _keep(self, kept: _Kept) -> None:
        """Dial it, again and again."""
        loop = asyncio.get_running_loop()
        with kept.scope:
            while True:
                over = await self._dial_once(kept)
                now = loop.time()
                if now - kept.linked_s >= self._limits.lasting_s:
                    kept.backoff.over()
                kept.linked_s = math.inf
                kept.trouble = over.reason
                kept.backoff.failed(now)
                if kept.is_gone:
                    self._forget(kept)
                    return
                kept.woken = asyncio.Event()
                with anyio.move_on_after(max(0.0, kept.backoff.until_s - loop.time())):
                    await kept.woken.wait()
                kept.woken = None

    def _forget(self, kept: _Kept) -> None:
        if self._kept.get(kept.member.node_id) is kept:
            del self._kept[kept.member.node_id]

    async def _dial_once(self, kept: _Kept) -> Over:
        """Never raises a PenstockError."""
        node_id = kept.member.node_id
        dialling = kept.dialling = Dialling(self._tools, kept.member)

        async def linked(link: DialledLink) -> None:
            kept.link, kept.epoch, kept.trouble = link, link.epoch, ""
            kept.linked_s = asyncio.get_running_loop().time()
            self._metrics.dialled(node_id, "linked")
            channel = link.connection.kind.value
            self._log.info("peer_linked", peer=node_id, epoch=link.epoch.hex(), channel=channel)
            if dialling.session.ended_life is not None:
                self._served.end_life(node_id, dialling.session.ended_life)
            try:
                await self._watch(link)
            finally:
                with suppress(PenstockError):  # a directory that is away promises nothing either
                    self._directory.tell_nowait(PeerGone(node_id))

        over = Over(Refusal.ENDED, "this node has ended it")
        try:
            over = await dialling.run(linked)
        except PenstockError as refusal:
            over = Over(Refusal.ENDED, str(refusal))
        finally:
            was_linked, kept.link, kept.dialling = kept.link is not None, None, None
            self._tell_over(node_id, over, was_linked=was_linked)
        return over

    def _tell_over(self, node_id: str, over: Over, *, was_linked: bool) -> None:
        if was_linked:
            self._metrics.lost(node_id)
            self._log.warning("peer_lost", peer=node_id, reason=over.reason)
        else:
            self._metrics.dialled(node_id, over.refusal.value)
            self._log.warning_once(
                "peer_not_linked", node_id, over.reason, peer=node_id, reason=over.reason
            )

    def _new_life(self, node_id: str, epoch: Epoch) -> None:
        """It has dialled here, and was restarted since it was heard of last."""
        kept = self._kept.get(node_id)
        if kept is None:
            return
        if kept.dialling is not None and kept.link is not None and kept.link.epoch != epoch:
            kept.dialling.end(Refusal.OLD_EPOCH, f"{node_id} was restarted")
        kept.backoff.eased(asyncio.get_running_loop().time())
        if kept.woken is not None:
            kept.woken.set()

    # What they have.

    async def _watch(self, link: DialledLink) -> None:
        """Until the link is lost. What the directory misses is asked for anew, each time after a longer pause."""
        limits = self._limits
        backoff = Backoff(pause_s=limits.pause_s, pause_s_max=limits.pause_s_max, draw=self._draw)
        loop = asyncio.get_running_loop()
        while not link.is_lost:
            heard = await self._watch_once(link, backoff)
            backoff.failed(loop.time())
            pause_s = max(0.0, backoff.until_s - loop.time())
            await anyio.sleep(limits.watch_retry_s if heard is Heard.NO_ROOM else pause_s)

    async def _watch_once(self, link: DialledLink, backoff: Backoff) -> Heard:
        try:
            stream = link.watch()
        except PenstockError:
            return Heard.RESYNC
        try:
            while True:
                raw: bytes | None = None
                with anyio.move_on_after(self._limits.watch_silent_s):
                    raw = await stream.read()
                if raw is None:
                    return Heard.RESYNC
                update = PeerUpdate(link.node_id, link.epoch, update_of(raw))
                heard = await self._directory.ask(update, within=self._limits.ask_s)
                if heard is not Heard.KEPT:
                    return heard
                backoff.over()
        except (PenstockError, NotOurs) as trouble:
            peer = link.node_id
            self._log.warning_once("watch_over", peer, str(trouble), peer=peer, reason=str(trouble))
            return Heard.RESYNC
        finally:
            stream.cancel()

    # Numbers.

    def _count_linked(self) -> int:
        return sum(kept.is_linked for kept in self._kept.values())

    def _measure(self) -> ClusterUsage:
        degraded = "" if self._membership is None else self._membership.degraded
        usages = [self._usage(kept) for _, kept in sorted(self._kept.items())]
        return ClusterUsage(self._tools.me.node_id, degraded, tuple(usages))

    def _usage(self, kept: _Kept) -> PeerUsage:
        node_id, link = kept.member.node_id, kept.link if kept.is_linked else None
        there = self._served.of(node_id)
        connections = [] if link is None else [link.connection]
        if there is not None and there.data is not None:
            connections.append(there.data)
        return PeerUsage(
            node_id,
            kept.member.address,
            PeerState.DIALLING if link is None else PeerState.LINKED,
            kept.epoch,
            None if link is None else link.connection.kind,
            serves=int(there is not None),
            bytes_in=sum(one.statistics.bytes_received for one in connections),
            bytes_out=sum(one.statistics.bytes_sent for one in connections),
            detail=kept.trouble if kept.link is None or link is not None else "its link was lost",
            linked_s=0.0 if link is None else asyncio.get_running_loop().time() - kept.linked_s,
        )
