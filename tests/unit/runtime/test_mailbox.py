"""The mailbox against a dumb twin: two lists and a set."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.runtime.errors import ActorCrashed, ActorStopped, MailboxFull
from penstock.runtime.mailbox import Mailbox
from penstock.runtime.message import Envelope, Msg

ROOM = 3


@dataclass(frozen=True, slots=True)
class Ask(Msg[object, int]):
    number: int


class MailboxAgainstTwin(RuleBasedStateMachine):
    """Asks and tells come, are taken, given up, and finished; the twin keeps their numbers in
    lists.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.mailbox = Mailbox("twin", messages_max=ROOM)
        self.sent: list[Envelope] = []
        self.queue: list[int] = []  # numbers, in order, given-up ones included
        self.line: list[int] = []
        self.serving: list[int] = []
        self.given_up: set[int] = set()
        self.closed = False

    def teardown(self) -> None:
        for envelope in self.sent:
            if envelope.reply is not None:
                envelope.reply.cancel()
        self.loop.close()

    def _envelope(self, *, asks: bool) -> Envelope:
        reply = self.loop.create_future() if asks else None
        envelope = Envelope(Ask(len(self.sent)), math.inf, reply)
        self.sent.append(envelope)
        return envelope

    @rule(asks=st.booleans())
    def put(self, asks: bool) -> None:
        envelope = self._envelope(asks=asks)
        number = envelope.msg.number
        if self.closed:
            with pytest.raises(ActorStopped):
                self.mailbox.put(envelope)
            return
        assert self.mailbox.put(envelope) == (len(self.queue) < ROOM)
        (self.queue if len(self.queue) < ROOM else self.line).append(number)

    @rule()
    def put_nowait(self) -> None:
        envelope = self._envelope(asks=False)
        if self.closed or len(self.queue) >= ROOM:
            with pytest.raises(ActorStopped if self.closed else MailboxFull):
                self.mailbox.put_nowait(envelope)
            return
        self.mailbox.put_nowait(envelope)
        self.queue.append(envelope.msg.number)

    @rule()
    def take(self) -> None:
        expected = None
        while self.queue and expected is None:
            number = self.queue.pop(0)
            if self.line:
                self.queue.append(self.line.pop(0))
            expected = None if number in self.given_up else number
        taken = self.mailbox.take()
        assert (None if taken is None else taken.msg.number) == expected
        if expected is not None:
            self.serving.append(expected)

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.serving))
        self.serving.remove(number)
        self.mailbox.done(self.sent[number])
        self.sent[number].settle(number)

    @precondition(lambda self: self.queue or self.line)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.queue + self.line))
        reply = self.sent[number].reply
        if reply is None:
            return
        reply.cancel()
        self.mailbox.withdraw(self.sent[number])
        self.given_up.add(number)
        if number in self.line:
            self.line.remove(number)

    @rule()
    def crash(self) -> None:
        heard = [n for n in self.serving + self.queue if self.sent[n].reply is not None]
        self.mailbox.fail_asks(lambda: ActorCrashed("twin died"))
        self.serving.clear()
        self.queue = [n for n in self.queue if self.sent[n].reply is None]
        while self.line and len(self.queue) < ROOM:
            self.queue.append(self.line.pop(0))
        for number in heard:
            reply = self.sent[number].reply
            assert reply is not None
            assert reply.done()
            if number not in self.given_up:
                assert isinstance(reply.exception(), ActorCrashed)

    @rule()
    def close(self) -> None:
        self.mailbox.close()
        self.closed = True
        for number in self.line:
            reply = self.sent[number].reply
            if reply is not None:
                assert isinstance(reply.exception(), ActorStopped)
        self.line.clear()

    @invariant()
    def same_counts(self) -> None:
        seen = self.mailbox.statistics()
        counted = (len(self.queue), len(self.line), len(self.serving))
        assert (seen.queued, seen.waiting, seen.serving) == counted
        assert seen.queued <= seen.queued_peak <= seen.queued_max == ROOM


TestMailboxAgainstTwin = MailboxAgainstTwin.TestCase
TestMailboxAgainstTwin.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_mailbox_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="messages_max must be at least 1"):
        Mailbox("none", messages_max=0)
