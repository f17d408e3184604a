"""The handshake between two nodes: who is let in, who is not, and when a link is lost (A15, B11, D4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.actors.api.peers import LinkLimits
from penstock.actors.api.types import Epoch
from penstock.actors.core.link_session import DialerSession, ListenerSession, Stage
from penstock.actors.core.link_words import (
    Drawn,
    Hello,
    Lives,
    Me,
    Offered,
    Pace,
    Refusal,
    Terms,
    Welcome,
)

A, B = Me("a", Epoch(b"a" * 16)), Me("b", Epoch(b"b" * 16))
PACE = Pace(1.0, 3)
TERMS = Terms((Offered("tcp", b"there"),), PACE, LinkLimits(4, 100, 1 << 20, 1 << 20))


def drawn(number: int = 1) -> Drawn:
    return Drawn(bytes([number]) * 32, bytes([number]) * 16, bytes([number + 1]) * 32)


def listening(*, lives: Lives | None = None, number: int = 1, now: float = 0.0) -> ListenerSession:
    book = lives or Lives(nodes_max=4)
    return ListenerSession(B, drawn(number), TERMS, book, now=now, within_s=5)


def dialling(
    *, me: Me = A, to: str = "b", lives: Lives | None = None, nonce: bytes = b"n" * 32
) -> DialerSession:
    book = lives or Lives(nodes_max=4)
    return DialerSession(me, to, nonce, (Offered("grpc", b""),), book, now=0, within_s=5)


def hello_to(listener: ListenerSession, **changed: Any) -> Hello:
    said = dialling().challenge(listener.challenge)
    assert said is not None
    return replace(said, **changed)


def linked() -> tuple[DialerSession, ListenerSession]:
    dialer, listener = dialling(), listening()
    said = dialer.challenge(listener.challenge)
    assert said is not None
    welcome = listener.hello(said, names=["a"], now=0)
    assert welcome is not None
    dialer.welcomed(welcome, 0)
    return dialer, listener


def refused(session: DialerSession | ListenerSession) -> Refusal:
    session.validate()
    assert session.over is not None, "it goes on"
    assert session.over.reason
    return session.over.refusal


def test_two_nodes_meet() -> None:
    dialer, listener = linked()
    assert dialer.stage is listener.stage is Stage.LINKED
    assert dialer.welcome is not None
    assert dialer.welcome.secret == drawn().secret
    assert dialer.welcome.limits == TERMS.limits
    assert listener.peer == A


def test_a_hello_that_was_recorded_is_of_no_use() -> None:
    """D4: the nonce of another stream. Seen to fail without the comparison of nonces."""
    recorded = hello_to(listening(number=1))
    listener = listening(number=2)
    assert listener.hello(recorded, names=["a"], now=0) is None
    assert refused(listener) is Refusal.REPLAYED


def test_a_hello_cannot_be_said_twice() -> None:
    listener = listening()
    said = hello_to(listener)
    assert listener.hello(said, names=["a"], now=0) is not None
    assert listener.hello(said, names=["a"], now=0) is None
    assert refused(listener) is Refusal.OUT_OF_TURN


def test_a_welcome_that_was_recorded_is_of_no_use() -> None:
    _, listener = dialling(nonce=b"1" * 32), listening()
    first = dialling(nonce=b"1" * 32)
    said = first.challenge(listener.challenge)
    assert said is not None
    recorded = listener.hello(said, names=None, now=0)
    assert recorded is not None
    second = dialling(nonce=b"2" * 32)
    second.challenge(listener.challenge)
    second.welcomed(recorded, 0)
    assert refused(second) is Refusal.REPLAYED


@pytest.mark.parametrize(
    ("changed", "names", "why"),
    [
        ({"listener_id": "c"}, ["a"], Refusal.WRONG_NODE),
        ({"node_id": "b"}, ["b"], Refusal.WRONG_NODE),
        ({"protocol_version": 2}, ["a"], Refusal.WRONG_VERSION),
        ({"protocol_version": 0}, ["a"], Refusal.WRONG_VERSION),
        ({}, ["c", "aa"], Refusal.NOT_ITS_NAME),
        ({}, [], Refusal.NOT_ITS_NAME),
        ({"node_id": "A"}, ["A"], Refusal.MALFORMED),
        ({"node_id": ""}, None, Refusal.MALFORMED),
        ({"node_id": "a/../b"}, None, Refusal.MALFORMED),
        ({"node_id": "a" * 64}, None, Refusal.MALFORMED),
        ({"epoch": Epoch(b"")}, None, Refusal.MALFORMED),
        ({"nonce": b""}, None, Refusal.MALFORMED),
        ({"own_nonce": b"1" * 31}, None, Refusal.MALFORMED),
        ({"channels": (Offered("x", b""),) * 9}, None, Refusal.MALFORMED),
        ({"channels": (Offered("x", bytes(4097)),)}, None, Refusal.MALFORMED),
        ({"channels": (Offered("x" * 17, b""),)}, None, Refusal.MALFORMED),
    ],
)
def test_a_listener_refuses(changed: dict[str, Any], names: list[str] | None, why: Refusal) -> None:
    listener = listening()
    assert listener.hello(hello_to(listener, **changed), names=names, now=0) is None
    assert refused(listener) is why


def test_who_is_refused_changes_nothing_for_the_one_named() -> None:
    """A stranger's Hello under a node's name ends none of its lives (D4)."""
    lives = Lives(nodes_max=4)
    lives.enter("a", A.epoch)
    listener = listening(lives=lives)
    stranger = hello_to(listener, epoch=Epoch(b"x" * 16))
    assert listener.hello(stranger, names=["stranger"], now=0) is None
    assert lives.present("a") == A.epoch


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"node_id": "c"}, Refusal.WRONG_NODE),
        ({"epoch": Epoch(b"")}, Refusal.MALFORMED),
        ({"secret": b""}, Refusal.MALFORMED),
        ({"link_id": b""}, Refusal.MALFORMED),
        ({"pace": Pace(0.0, 3)}, Refusal.MALFORMED),
        ({"pace": Pace(1.0, 0)}, Refusal.MALFORMED),
        ({"limits": LinkLimits(0, 1, 1 << 20, 1 << 20)}, Refusal.MALFORMED),
        ({"limits": LinkLimits(1, 1, 4095, 1 << 20)}, Refusal.MALFORMED),
    ],
)
def test_a_dialer_refuses(changed: dict[str, Any], why: Refusal) -> None:
    dialer, listener = dialling(), listening()
    said = dialer.challenge(listener.challenge)
    assert said is not None
    welcome = listener.hello(said, names=None, now=0)
    assert welcome is not None
    dialer.welcomed(replace(welcome, **changed), 0)
    assert refused(dialer) is why


def test_a_restarted_node_is_another_one_and_its_former_life_is_over() -> None:
    """A15: what the former life still sends, or is still asked, is refused."""
    lives = Lives(nodes_max=4)
    first, second = listening(lives=lives), listening(lives=lives, number=3)
    assert first.hello(hello_to(first), names=None, now=0) is not None
    young = hello_to(second, epoch=Epoch(b"2" * 16))
    assert second.hello(young, names=None, now=0) is not None
    assert second.ended_life == A.epoch
    late = listening(lives=lives, number=5)
    assert late.hello(hello_to(late), names=None, now=0) is None
    assert refused(late) is Refusal.OLD_EPOCH


def test_a_dialer_does_not_go_back_to_a_life_that_is_over() -> None:
    """A15, from the other end."""
    lives = Lives(nodes_max=4)
    lives.enter("b", B.epoch)
    lives.enter("b", Epoch(b"2" * 16))
    dialer, listener = dialling(lives=lives), listening()
    said = dialer.challenge(listener.challenge)
    assert said is not None
    welcome = listener.hello(said, names=None, now=0)
    assert welcome is not None
    dialer.welcomed(welcome, 0)
    assert refused(dialer) is Refusal.OLD_EPOCH


def test_a_handshake_that_stops_half_way_ends() -> None:
    """B11: whoever says nothing more holds nothing for longer than that."""
    listener, dialer = listening(), dialling()
    for session in (listener, dialer):
        assert session.wakes_s == 5
        session.tick(4.9)
        assert session.over is None
        session.tick(5)
        assert refused(session) is Refusal.LATE


def test_silence_ends_a_link_and_heartbeats_keep_it() -> None:
    """B11: three missed, and not before."""
    for session in linked():
        for second in range(1, 10):
            assert session.tick(float(second)) == second
            session.heartbeat(second, float(second))
        assert session.tick(11.9) == 10
        assert session.stage is Stage.LINKED
        session.tick(12.0)
        assert refused(session) is Refusal.SILENT


def test_a_heartbeat_counts_once() -> None:
    """One that is sent again, or comes before the handshake, is out of its turn."""
    dialer, _ = linked()
    dialer.heartbeat(1, 0.5)
    dialer.heartbeat(1, 0.6)
    assert refused(dialer) is Refusal.OUT_OF_TURN
    early = listening()
    early.heartbeat(1, 0)
    assert refused(early) is Refusal.OUT_OF_TURN


@given(
    nonce=st.binary(max_size=64),
    own=st.binary(max_size=64),
    node=st.text(max_size=70),
    epoch=st.binary(max_size=32),
    listener_id=st.text(max_size=70),
    version=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100)
def test_garbage_is_refused_in_words(
    nonce: bytes, own: bytes, node: str, epoch: bytes, listener_id: str, version: int
) -> None:
    listener = listening()
    said = Hello(nonce, own, node, Epoch(epoch), listener_id, version, ())
    assert listener.hello(said, names=None, now=0) is None
    assert refused(listener)


class Meetings(RuleBasedStateMachine):
    """Lives of nodes come and go in any order: none that is over comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = Lives(nodes_max=3)
        self.now = 0.0
        self.over: set[tuple[str, bytes]] = set()
        self.sessions: list[ListenerSession] = []

    @rule(node=st.sampled_from(["a", "c", "d"]), life=st.integers(1, 4))
    def dial(self, node: str, life: int) -> None:
        epoch = Epoch(bytes([life]) * 16)
        listener = listening(lives=self.lives, number=1, now=self.now)
        said = hello_to(listener, node_id=node, epoch=epoch)
        welcome = listener.hello(said, names=[node], now=self.now)
        assert (welcome is None) == ((node, epoch) in self.over)
        if listener.ended_life is not None:
            self.over.add((node, listener.ended_life))
        self.sessions.append(listener)

    @precondition(lambda self: self.sessions)
    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for session in self.sessions:
            session.tick(self.now)

    @invariant()
    def holds(self) -> None:
        self.lives.validate()
        for session in self.sessions:
            session.validate()


TestMeetings = Meetings.TestCase
TestMeetings.settings = settings(max_examples=30, stateful_step_count=20)


def test_too_many_nodes_are_not_remembered() -> None:
    lives = Lives(nodes_max=2)
    for node in ("a", "b", "c"):
        lives.enter(node, Epoch(b"1" * 16))
    assert lives.present("a") is None
    lives.validate()


def test_a_welcome_says_what_the_listener_has() -> None:
    listener = listening()
    welcome = listener.hello(hello_to(listener), names=None, now=0)
    assert isinstance(welcome, Welcome)
    assert (welcome.channels, welcome.pace) == (TERMS.channels, PACE)
    assert "secret" not in repr(welcome)
