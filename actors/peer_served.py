"""Links that other nodes have dialled here, from the Hello to the end. See `core/link_session.py` for the handshake.

    stream opened -> challenged -> linked -> lost: its calls are cancelled, its data connection is closed
                          '--> refused in words, counted, told of once

A node has one link here at a time: a new one ends the former, and one of a new life ends all of the former life.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from anyio import CancelScope

from penstock.actors.api.peers import LinkLimits, PeerAway
from penstock.actors.api.types import Epoch
from penstock.actors.core.link_session import ListenerSession
from penstock.actors.core.link_words import (
    LINK_ID_BYTES,
    NONCE_BYTES,
    SECRET_BYTES,
    Drawn,
    Hello,
    Lives,
    Me,
    Offered,
    Over,
    Pace,
    Refusal,
    Terms,
)
from penstock.actors.peer_codec import (
    beat_reply,
    challenge_reply,
    read_hello_or_beat,
    welcome_reply,
)
from penstock.actors.peer_metrics import ServedMetrics
from penstock.actors.peer_talk import Talk
from penstock.runtime.channel import Accepted, Connection
from penstock.runtime.errors import StaleError
from penstock.runtime.log import Log


class UnknownLink(StaleError):
    """History: there is no such link, or not any more, or it is another node's."""


@dataclass(frozen=True, slots=True)
class ServingLimits:
    links_max: int
    handshake_s: float
    pace: Pace
    link: LinkLimits  # of each


@dataclass(frozen=True, slots=True)
class Doors:
    """How data connections are made here: what is told of them, and who waits for one."""

    offered: Callable[[], tuple[Offered, ...]]
    expect: Callable[[bytes, Accepted], None]
    forget: Callable[[bytes], None]


class ServedPeer:
    """One link, as its calls see it."""

    def __init__(self, peer: Me, link_id: bytes) -> None:
        self.node_id = peer.node_id
        self.epoch = peer.epoch
        self.link_id = link_id
        self.data: Connection | None = None  # once it was made
        self._made = asyncio.Event()
        self._lost = asyncio.Event()
        self._why = ""
        self._calls: set[CancelScope] = set()

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return self._why

    async def connection(self, *, within: float) -> Connection:
        with anyio.move_on_after(within):
            await self._made.wait()
        if self.data is None or self.data.is_lost or self.is_lost:
            why = self._why or ("it is lost" if self.data else f"none was made in {within:.3g} s")
            raise PeerAway(f"no data connection with {self.node_id}: {why}")
        return self.data

    @contextmanager
    def call(self) -> Iterator[CancelScope]:
        """What is done for the peer inside ends when the link is lost: `cancelled_caught` then. Raises PeerAway."""
        if self.is_lost:
            raise PeerAway(f"the link with {self.node_id} is lost: {self._why}")
        with CancelScope() as scope:
            self._calls.add(scope)
            try:
                yield scope
            finally:
                self._calls.discard(scope)

    def made(self, connection: Connection) -> None:
        self.data = connection
        self._made.set()

    def lose(self, why: str) -> None:
        """Idempotent."""
        if self.is_lost:
            return
        self._why = why
        self._lost.set()
        self._made.set()
        for scope in [*self._calls]:
            scope.cancel()


class ServedLinks:
    """All of one node. Belongs to the loop."""

    def __init__(
        self, me: Me, lives: Lives, limits: ServingLimits, doors: Doors, metrics: ServedMetrics
    ) -> None:
        self.me = me
        self.lives = lives
        self.metrics = metrics
        self.on_life: Callable[[str, Epoch], None] | None = None  # hears of a new life of a node
        self.close_soon: Callable[[Connection], None] | None = (
            None  # set while there is who does it
        )
        self._limits = limits
        self._doors = doors
        self._by_id: dict[bytes, ServedPeer] = {}
        self._by_node: dict[str, tuple[ServedPeer, Talk]] = {}  # the same links
        self._open = 0  # streams, linked or not yet; <= limits.links_max
        self._log = Log("peer_links")

    @property
    def linked(self) -> int:
        return len(self._by_id)

    def of(self, node_id: str) -> ServedPeer | None:
        found = self._by_node.get(node_id)
        return None if found is None else found[0]

    def find(self, link_id: bytes, may_be: Callable[[str], bool]) -> ServedPeer:
        """Of a call that names it. Raises UnknownLink."""
        link = self._by_id.get(link_id)
        if link is None or link.is_lost or not may_be(link.node_id):
            raise UnknownLink("there is no such link: dial one")
        return link

    def end_life(self, node_id: str, epoch: Epoch) -> None:
        """This life of a node is over, says another link of it."""
        found = self._by_node.get(node_id)
        if found is not None and found[0].epoch == epoch:
            found[1].end(Refusal.OLD_EPOCH, f"{node_id} was restarted")

    async def serve(
        self,
        read: Callable[[], Awaitable[bytes | None]],
        write: Callable[[bytes], Awaitable[None]],
        names: Collection[str] | None,
    ) -> Over:
        """One stream, to its end. `names`: of the certificate it came with; None: there is none, on loopback."""
        if self._open >= self._limits.links_max:
            return self._refused(
                Over(Refusal.TOO_MANY, f"{self._open} links are open, as many as cluster.links_max")
            )
        self._open += 1
        try:
            serving = _Serving(self, self._limits, self._doors)
            over = await serving.run(read, write, names)
        finally:
            self._open -= 1
        return over if serving.link is not None else self._refused(over)

    def enter(self, link: ServedPeer, talk: Talk, ended: Epoch | None) -> None:
        """It is linked. What it replaces is over."""
        former = self._by_node.get(link.node_id)
        if former is not None:
            former[1].end(Refusal.ENDED, f"{link.node_id} has dialled anew")
            self._forget(former[0])
            former[0].lose("the peer has dialled anew")
        self._by_id[link.link_id] = link
        self._by_node[link.node_id] = (link, talk)
        self._log.info("peer_linked_here", peer=link.node_id, epoch=link.epoch.hex())
        if ended is not None and self.on_life is not None:
            self.on_life(link.node_id, link.epoch)

    def leave(self, link: ServedPeer, over: Over) -> None:
        self._forget(link)
        link.lose(over.reason)
        if link.data is not None and self.close_soon is not None:
            self.close_soon(link.data)
        self._log.info("peer_left", peer=link.node_id, reason=over.reason)

    def _forget(self, link: ServedPeer) -> None:
        self._by_id.pop(link.link_id, None)
        if self.of(link.node_id) is link:
            del self._by_node[link.node_id]

    def _refused(self, over: Over) -> Over:
        self.metrics.refused(over.refusal.value)
        if over.refusal is not Refusal.ENDED:
            why = over.refusal.value
            self._log.warning_once("handshake_refused", over.reason, why=why, reason=over.reason)
        return over


class _Serving:
    """One stream."""

    def __init__(self, links: ServedLinks, limits: ServingLimits, doors: Doors) -> None:
        self.link: ServedPeer | None = None  # set once it is linked
        self._links = links
        self._doors = doors
        self._drawn = Drawn(
            os.urandom(NONCE_BYTES), os.urandom(LINK_ID_BYTES), os.urandom(SECRET_BYTES)
        )
        terms = Terms(doors.offered(), limits.pace, limits.link)
        now = asyncio.get_running_loop().time()
        self._session = ListenerSession(
            links.me, self._drawn, terms, links.lives, now=now, within_s=limits.handshake_s
        )
        self._names: Collection[str] | None = None
        self._talk: Talk | None = None

    async def run(
        self,
        read: Callable[[], Awaitable[bytes | None]],
        write: Callable[[bytes], Awaitable[None]],
        names: Collection[str] | None,
    ) -> Over:
        self._names = names
        self._talk = Talk(self._session, read=read, write=write, heard=self._heard, beat=beat_reply)
        self._talk.say(challenge_reply(self._session.challenge))
        over = Over(Refusal.ENDED, "its stream was broken off")
        try:
            over = await self._talk.run()
        finally:
            if self.link is not None:
                self._doors.forget(self._drawn.secret)
                self._links.leave(self.link, over)
        return over

    def _heard(self, raw: bytes) -> None:
        assert self._talk is not None
        now = asyncio.get_running_loop().time()
        said = read_hello_or_beat(raw)
        if not isinstance(said, Hello):
            self._session.heartbeat(said, now)
            return
        welcome = self._session.hello(said, names=self._names, now=now)
        if welcome is None:
            return
        assert self._session.peer is not None
        link = self.link = ServedPeer(self._session.peer, self._drawn.link_id)
        self._doors.expect(self._drawn.secret, self._accept)
        self._links.enter(link, self._talk, self._session.ended_life)
        self._talk.say(welcome_reply(welcome))

    def _accept(self, connection: Connection) -> None:
        assert self.link is not None
        if self.link.is_lost and self._links.close_soon is not None:
            self._links.close_soon(connection)
        self.link.made(connection)
