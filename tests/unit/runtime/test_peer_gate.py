"""What one peer may ask, by a clock of the test; and connections that never came to a call."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import pytest

from penstock.runtime import peer_gate
from penstock.runtime.peer_gate import PeerAsksTooMuch, PeerGate, PeerIdentity, PeerRefused
from penstock.runtime.strangers import Strangers

A, B = (PeerIdentity(frozenset({name}), is_verified=True) for name in "ab")
CLEAR = PeerIdentity(frozenset(), is_verified=False)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, *, calls_max: int = 4, per_s: int = 10) -> PeerGate:
    strangers = Strangers(within_s=5, connections_max=4)
    return PeerGate(strangers, calls_max=calls_max, calls_per_s_max=per_s, clock=clock)


def test_an_identity_is_what_its_certificate_names() -> None:
    """D4. Seen to fail with a part of a name taken for it."""
    both = PeerIdentity(frozenset({"a", "a.example"}), is_verified=True)
    both.check("a")
    both.check("a.example")
    for claimed in ("", "b", "a.exampl", "A", "example"):
        with pytest.raises(PeerRefused, match=r"its certificate is for a, a\.example"):
            both.check(claimed)
    CLEAR.check("anything")


def test_calls_at_once_are_those_of_one_peer_on_all_its_connections() -> None:
    gate = made(Clock())
    with ExitStack() as calls:
        for port in range(4):
            calls.enter_context(gate.admitted(A, f"ipv4:10.0.0.1:{port}"))
        with pytest.raises(PeerAsksTooMuch, match=r"4 calls of this peer .* cluster.calls_max"):
            calls.enter_context(gate.admitted(A, "ipv4:10.0.0.1:9"))
        calls.enter_context(gate.admitted(B, "ipv4:10.0.0.2:1"))
    with gate.admitted(A, "ipv4:10.0.0.1:1"):
        assert gate.calls_refused == 1


def test_calls_a_second_come_back_with_time() -> None:
    """Seen to fail with a bucket that fills beyond one second's worth."""
    clock = Clock()
    gate = made(clock)

    def asked() -> int:
        """Calls that are let in, one after the other, until one is not."""
        for count in range(100):
            try:
                with gate.admitted(A, "x"):
                    pass
            except PeerAsksTooMuch:
                return count
        return 100

    assert asked() == 10
    clock.now += 0.35
    assert asked() == 3
    clock.now += 3600
    assert asked() == 10


def test_who_is_not_verified_is_told_apart_by_connection() -> None:
    """Loopback in the clear: many nodes of one machine. Seen to fail with one account for all of them."""
    gate = made(Clock(), calls_max=1)
    with gate.admitted(CLEAR, "ipv4:127.0.0.1:1"), gate.admitted(CLEAR, "ipv4:127.0.0.1:2"):
        pass
    nobody = PeerIdentity(frozenset(), is_verified=True)
    with pytest.raises(PeerRefused, match="names no node"), gate.admitted(nobody, "x"):
        pass


def test_accounts_are_bounded_and_idle_ones_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """C10. Seen to fail with the bound taken out."""
    monkeypatch.setattr(peer_gate, "_ACCOUNTS_MAX", 2)
    gate = made(Clock())
    with gate.admitted(A, ""):
        for name in "cdefg":
            with gate.admitted(PeerIdentity(frozenset({name}), is_verified=True), ""):
                assert len(gate._accounts) <= 2
        with gate.admitted(B, ""), pytest.raises(PeerAsksTooMuch, match="2 peers are calling"):
            with gate.admitted(PeerIdentity(frozenset({"h"}), is_verified=True), ""):
                pass


def test_whoever_never_calls_is_a_stranger(caplog: pytest.LogCaptureFixture) -> None:
    strangers = Strangers(within_s=5, connections_max=4)
    assert strangers.handshake_begun(100)  # somebody has to settle it
    assert not strangers.handshake_begun(101)
    strangers.called("ipv4:10.0.0.1:1")
    strangers.called("ipv4:10.0.0.1:1")  # the same connection
    with caplog.at_level(logging.WARNING):
        assert strangers.settle(105.9) == 106
        assert strangers.refused == 0
        assert strangers.settle(106) is None
        assert (strangers.handshakes, strangers.refused) == (2, 1)
        for begun in range(10):
            strangers.handshake_begun(200 + begun)
        strangers.settle(300)
    assert (strangers.handshakes, strangers.refused) == (12, 11)
    assert len(caplog.records) == 1
