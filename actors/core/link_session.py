"""The handshake of a link between two nodes, and the heartbeats after it, from both ends.

    listener   CHALLENGED --Hello--> LINKED --silent, ended, out of turn--> OVER
                   '--refused, late-------------------------------------------^
    dialer     WAITING --Challenge--> ANSWERED --Welcome--> LINKED --as above--> OVER
                  '----------------------'--refused, late-------------------------^

Nothing here waits, draws or sends: messages and the time come in, what is to be sent is answered. What was once said
cannot be said again to any use: each side draws a nonce that the other one's message has to bring back.
"""

from __future__ import annotations

import enum
import hmac
import math
from collections.abc import Collection

from penstock.actors.api.types import Epoch
from penstock.actors.core.link_words import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Drawn,
    Hello,
    Lives,
    Me,
    Offered,
    Over,
    Pace,
    Refusal,
    Terms,
    Welcome,
    malformed,
)


class Stage(enum.Enum):
    """Where a session is; drawn in the module's docstring."""

    CHALLENGED = "challenged"
    WAITING = "waiting"
    ANSWERED = "answered"
    LINKED = "linked"
    OVER = "over"


class _Session:
    """What both ends have: a deadline for the handshake, heartbeats after it, and an end."""

    def __init__(self, me: Me, stage: Stage, *, now: float, within_s: float) -> None:
        self.me = me
        self.stage = stage
        self.over: Over | None = None  # set iff stage is OVER
        self._pace: Pace | None = None  # set once it is linked
        self._ends_s = now + within_s  # until then it is linked, or over
        self._heard_s = now
        self._beats = 0  # sent
        self._heard = 0  # the number of the last one from the other side
        self._beat_s = now

    @property
    def wakes_s(self) -> float:
        """When `tick` is to be called next, at the latest; inf: never."""
        if self.stage is Stage.OVER:
            return math.inf
        if self._pace is None:
            return self._ends_s
        return min(self._beat_s + self._pace.every_s, self._heard_s + self._pace.silent_s_max)

    def tick(self, now: float) -> int | None:
        """Time has passed. The number of the heartbeat to be sent now, if it is time for one."""
        if self.stage is Stage.OVER:
            return None
        if self._pace is None:
            if now >= self._ends_s:
                self.end(Refusal.LATE, "the handshake took too long")
            return None
        if now >= self._heard_s + self._pace.silent_s_max:
            self.end(Refusal.SILENT, f"nothing was heard for {self._pace.silent_s_max:g} s")
            return None
        if now < self._beat_s + self._pace.every_s:
            return None
        self._beat_s = now
        self._beats += 1
        return self._beats

    def heartbeat(self, number: int, now: float) -> None:
        """One from the other side."""
        if self.stage is Stage.OVER:
            return
        if self.stage is not Stage.LINKED or number <= self._heard:
            self.end(Refusal.OUT_OF_TURN, f"heartbeat {number} is out of its turn")
            return
        self._heard, self._heard_s = number, now

    def end(self, refusal: Refusal, reason: str) -> None:
        """Whatever happens. The first reason stays."""
        if self.stage is not Stage.OVER:
            self.stage = Stage.OVER
            self.over = Over(refusal, reason)

    def _link(self, pace: Pace, now: float) -> None:
        self.stage, self._pace = Stage.LINKED, pace
        self._heard_s = self._beat_s = now

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert (self.over is not None) == (self.stage is Stage.OVER)
        assert self._pace is not None or self.stage is not Stage.LINKED, "linked without terms"
        assert self._heard == 0 or self._pace is not None, "a heartbeat before the link"


class ListenerSession(_Session):
    """One stream that somebody has opened here. `challenge` is sent first."""

    def __init__(
        self, me: Me, drawn: Drawn, terms: Terms, lives: Lives, *, now: float, within_s: float
    ) -> None:
        super().__init__(me, Stage.CHALLENGED, now=now, within_s=within_s)
        self.peer: Me | None = None  # set once it is linked
        self.ended_life: Epoch | None = None  # of the peer, by this Hello
        self._drawn = drawn
        self._terms = terms
        self._lives = lives

    @property
    def challenge(self) -> bytes:
        return self._drawn.nonce

    def hello(self, hello: Hello, *, names: Collection[str] | None, now: float) -> Welcome | None:
        """The answer to a Hello; None: it is over. `names` are those of the certificate it came with; None: there is
        none, on loopback."""
        if self.stage is not Stage.CHALLENGED:
            self.end(Refusal.OUT_OF_TURN, "a second Hello")
            return None
        refused = self._refuse(hello, names)
        if refused is not None:
            self.end(refused.refusal, refused.reason)
            return None
        self.peer = Me(hello.node_id, hello.epoch)
        self.ended_life = self._lives.enter(hello.node_id, hello.epoch)
        self._link(self._terms.pace, now)
        return Welcome(
            hello.own_nonce,
            self.me.node_id,
            self.me.epoch,
            self._drawn.link_id,
            self._drawn.secret,
            self._terms.channels,
            self._terms.pace,
            self._terms.limits,
        )

    def _refuse(self, hello: Hello, names: Collection[str] | None) -> Over | None:
        """Who cannot prove whom it is told nothing else."""
        if (problem := malformed(hello)) is not None:
            return Over(Refusal.MALFORMED, problem)
        if not hmac.compare_digest(hello.nonce, self._drawn.nonce):
            return Over(Refusal.REPLAYED, "Hello answers another challenge than this stream's")
        if names is not None and hello.node_id not in names:
            told = f"the certificate is not that of {hello.node_id}: none of its DNS names is"
            return Over(Refusal.NOT_ITS_NAME, told)
        if hello.protocol_version != PROTOCOL_VERSION:
            told = f"version {hello.protocol_version} is spoken there, {PROTOCOL_VERSION} here"
            return Over(Refusal.WRONG_VERSION, f"{told}: run the same release on all nodes")
        if hello.listener_id != self.me.node_id:
            told = f"this is {self.me.node_id}, and not {hello.listener_id}"
            return Over(Refusal.WRONG_NODE, told)
        if hello.node_id == self.me.node_id:
            told = f"{hello.node_id} is this node's own name: no two nodes may have one"
            return Over(Refusal.WRONG_NODE, told)
        if self._lives.is_former(hello.node_id, hello.epoch):
            told = f"this life of {hello.node_id} is over: it was restarted since"
            return Over(Refusal.OLD_EPOCH, told)
        return None


class DialerSession(_Session):
    """One stream that this node has opened to another."""

    def __init__(
        self,
        me: Me,
        listener_id: str,
        own_nonce: bytes,
        channels: tuple[Offered, ...],
        lives: Lives,
        *,
        now: float,
        within_s: float,
    ) -> None:
        super().__init__(me, Stage.WAITING, now=now, within_s=within_s)
        self.listener_id = listener_id
        self.welcome: Welcome | None = None  # set once it is linked
        self.ended_life: Epoch | None = None  # of the peer, by this Welcome
        self._own_nonce = own_nonce
        self._channels = channels
        self._lives = lives

    def challenge(self, nonce: bytes) -> Hello | None:
        """The answer to a Challenge; None: it is over."""
        if self.stage is not Stage.WAITING:
            self.end(Refusal.OUT_OF_TURN, "a second Challenge")
            return None
        if len(nonce) != NONCE_BYTES:
            self.end(Refusal.MALFORMED, f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
            return None
        self.stage = Stage.ANSWERED
        return Hello(
            nonce,
            self._own_nonce,
            self.me.node_id,
            self.me.epoch,
            self.listener_id,
            PROTOCOL_VERSION,
            self._channels,
        )

    def welcomed(self, welcome: Welcome, now: float) -> None:
        if self.stage is not Stage.ANSWERED:
            self.end(Refusal.OUT_OF_TURN, "Welcome out of its turn")
            return
        refused = self._refuse(welcome)
        if refused is not None:
            self.end(refused.refusal, refused.reason)
            return
        self.welcome = welcome
        self.ended_life = self._lives.enter(welcome.node_id, welcome.epoch)
        self._link(welcome.pace, now)

    def _refuse(self, welcome: Welcome) -> Over | None:
        if (problem := malformed(welcome)) is not None:
            return Over(Refusal.MALFORMED, problem)
        if not hmac.compare_digest(welcome.own_nonce, self._own_nonce):
            return Over(Refusal.REPLAYED, "Welcome answers another Hello than this stream's")
        if welcome.node_id != self.listener_id:
            told = f"{welcome.node_id} is there, and not {self.listener_id}"
            return Over(Refusal.WRONG_NODE, told)
        if self._lives.is_former(welcome.node_id, welcome.epoch):
            told = f"this life of {welcome.node_id} is over: it was restarted since"
            return Over(Refusal.OLD_EPOCH, told)
        return None
