"""Who is attached: every order of attaching, entering, losing, resuming and dying keeps the rules."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from support.declarations import declaration

from penstock.actors.api.errors import (
    InstanceMismatch,
    TooManyNamespaces,
    TooManySessions,
    UnknownNamespace,
    UnknownSecret,
)
from penstock.actors.api.session import Declaration
from penstock.actors.api.types import GeometryId
from penstock.actors.core.attachments import Attachments, Phase, Session

SESSIONS_MAX = 5
_secrets = itertools.count(1)


def attach(attachments: Attachments, declared: Declaration) -> Session:
    """As the session keeper does it."""
    attachments.check_room(declared)
    if attachments.namespace(declared.namespace_digest) is None:
        attachments.add_namespace(declared, GeometryId(1))
    session, instance = attachments.draw_ids(declared)
    secret = next(_secrets).to_bytes(32, "big")
    return attachments.attach(declared, session, instance, secret)


def small() -> Attachments:
    return Attachments(sessions_max=SESSIONS_MAX, namespaces_max=2)


class Keeper(RuleBasedStateMachine):
    """A dict of what should be is the twin; `validate` looks from inside."""

    live: Bundle[Session] = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.attachments = small()
        self.phases: dict[int, Phase] = {}
        self.instances: dict[int, bytes] = {}
        self.namespaces: dict[int, bytes] = {}
        self.entered: set[int] = set()

    @rule(
        target=live,
        instance=st.sampled_from([b"a" * 16, b"b" * 16]),
        slots=st.booleans(),
        namespace=st.sampled_from([b"n" * 32, b"o" * 32, b"p" * 32]),
    )
    def attach(self, instance: bytes, slots: bool, namespace: bytes) -> Session | None:
        declared = declaration(instance=instance, slots=(0,) if slots else (), namespace=namespace)
        taken = {self.namespaces[one] for one in self.phases}
        if namespace not in taken and len(taken) == 2 and len(self.phases) < SESSIONS_MAX:
            with pytest.raises(TooManyNamespaces, match="namespaces_max"):
                self.attachments.check_room(declared)
            return None
        if len(self.phases) == SESSIONS_MAX:
            with pytest.raises(TooManySessions, match="sessions_max"):
                self.attachments.check_room(declared)
            return None
        session = attach(self.attachments, declared)
        self.phases[session.session] = Phase.ATTACHED
        self.instances[session.session] = instance
        self.namespaces[session.session] = namespace
        return session

    @rule(session=live)
    def enter(self, session: Session | None) -> None:
        if session is None:
            return
        may = (
            self.phases.get(session.session) is Phase.ATTACHED
            and session.session not in self.entered
        )
        if may:
            assert self.attachments.enter(session.secret) is session
            self.entered.add(session.session)
        else:
            with pytest.raises(UnknownSecret):
                self.attachments.enter(session.secret)

    @rule(session=live, held=st.integers(0, 2))
    def lose(self, session: Session | None, held: int) -> None:
        if session is None or self.phases.get(session.session) is not Phase.ATTACHED:
            return
        is_over = self.attachments.lose(session, leases_left=held)
        must_wait = held > 0 and session.session in self.entered and session.moves_bytes
        assert is_over is not must_wait
        if must_wait:
            self.phases[session.session] = Phase.LOST
        else:
            del self.phases[session.session]

    @rule(session=consumes(live))
    def forget(self, session: Session | None) -> None:
        if session is None or session.session not in self.phases:
            return
        self.attachments.forget(session)
        del self.phases[session.session]
        assert self.attachments.find(session.session) is None
        assert self.attachments.by_secret(session.secret) is None

    @rule(session=live, instance=st.sampled_from([b"a" * 16, b"b" * 16]))
    def resume(self, session: Session | None, instance: bytes) -> None:
        if session is None:
            return
        declared = declaration(instance=instance, resume=session.secret)
        is_mine = session.session in self.phases and self.instances[session.session] == instance
        found = self.attachments.resumable(declared)
        assert found is (session if is_mine else None)

    @rule(session=live)
    def ask_whether_the_instance_is_over(self, session: Session | None) -> None:
        if session is None:
            return
        instance = self.instances[session.session]
        has_stream = any(
            phase is Phase.ATTACHED
            for one, phase in self.phases.items()
            if self.instances[one] == instance and self._same_life(one, session)
        )
        assert self.attachments.is_over(session.instance) is not has_stream

    def _same_life(self, one: int, session: Session) -> bool:
        """An instance whose last session ended is another one when it attaches again."""
        found = self.attachments.find(session.session.__class__(one))
        return found is not None and found.instance == session.instance

    @invariant()
    def agrees(self) -> None:
        self.attachments.validate()
        attached = {one.session for one in self.attachments.attached()}
        assert attached == {s for s, phase in self.phases.items() if phase is Phase.ATTACHED}


TestKeeper = Keeper.TestCase
TestKeeper.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_two_processes_of_an_instance_share_its_number_and_may_not_contradict() -> None:
    attachments = small()
    first = attach(attachments, declaration())
    second = attach(attachments, declaration())
    assert first.instance == second.instance
    assert first.session != second.session
    with pytest.raises(InstanceMismatch, match="same groups"):
        attachments.check_room(declaration(shard_bytes=8192))
    other = attach(attachments, declaration(instance=b"o" * 16, shard_bytes=8192))
    assert other.instance != first.instance


def test_an_instance_ends_with_its_last_session_and_begins_anew() -> None:
    attachments = small()
    first = attach(attachments, declaration())
    attachments.forget(first)
    assert attachments.is_over(first.instance)
    again = attach(attachments, declaration(shard_bytes=8192))  # nobody is left to contradict
    assert again.instance != first.instance


def test_namespaces_stay_known_until_others_need_their_place() -> None:
    """B8: the bound is on those in use. Seen to fail: it was on all that were ever declared."""
    attachments = small()
    one, two, three = (declaration(namespace=bytes([name]) * 32) for name in b"123")
    attachments.forget(attach(attachments, one))
    attachments.forget(attach(attachments, two))
    assert attachments.require_namespace(b"1" * 32).chunk_tokens == 16  # and used last
    attach(attachments, three)
    with pytest.raises(UnknownNamespace, match="doctor"):
        attachments.require_namespace(b"2" * 32)
    first = attach(attachments, one)
    attachments.enter(first.secret)
    attachments.lose(first, leases_left=1)
    with pytest.raises(TooManyNamespaces, match="attached or lost"):
        attachments.check_room(two)
    attachments.check_room(three)
    attachments.forget(first)
    attach(attachments, two)
    attachments.validate()
    assert attachments.namespace(b"1" * 32) is None


def test_a_lost_session_counts_against_the_bound_and_opens_no_door() -> None:
    attachments = Attachments(sessions_max=1, namespaces_max=1)
    session = attach(attachments, declaration())
    attachments.enter(session.secret)
    assert not attachments.lose(session, leases_left=1)
    with pytest.raises(TooManySessions, match="attached or lost"):
        attachments.check_room(declaration())
    with pytest.raises(UnknownSecret):
        attachments.enter(session.secret)
    assert attachments.is_over(session.instance)
    assert attachments.resumable(declaration(resume=session.secret)) is session
    assert attachments.resumable(declaration(resume=session.secret, instance=b"x" * 16)) is None


def test_the_empty_secret_names_nobody() -> None:
    attachments = small()
    attach(attachments, declaration())
    assert attachments.by_secret(b"") is None
    assert attachments.resumable(declaration()) is None
