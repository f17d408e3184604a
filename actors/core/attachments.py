"""Who is attached: the rules, without any I/O.

Life of a session. The end of a stream proves nothing about the process behind it (a forked child may hold the
socket, or the process may live on and still write); only a pidfd does, or the owner's own word when it resumes.

    attach ---> ATTACHED --- stream ended, leases orphaned ---> LOST --- pidfd fired, or resumed ---> gone
                   |                                              (memory quarantined meanwhile)
                   |--- stream ended, nothing held, or never entered the arena ---------------------> gone
                   '--- pidfd fired (the stream is ended by us) ------------------------------------> gone
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from penstock.actors.api.errors import (
    InstanceMismatch,
    TooManyNamespaces,
    TooManySessions,
    UnknownNamespace,
    UnknownSecret,
)
from penstock.actors.api.session import Declaration
from penstock.actors.api.types import GeometryId, GroupGeometry, InstanceId, SessionId


class Phase(Enum):
    ATTACHED = "its stream is up"
    LOST = "its stream is gone, its memory is quarantined until its process is proven gone"


@dataclass(slots=True)
class Session:
    session: SessionId
    instance: InstanceId
    client: str
    secret: bytes = field(repr=False)
    namespace: bytes  # its digest
    moves_bytes: bool  # declared slots, so it may map the arena
    phase: Phase = Phase.ATTACHED
    has_entered: bool = False  # showed its secret at the arena socket: may have the arena mapped


@dataclass(slots=True)
class Instance:
    id: InstanceId
    groups: tuple[GroupGeometry, ...]
    sessions: set[SessionId] = field(default_factory=set)  # attached or lost; never empty


@dataclass(slots=True)
class Namespace:
    geometry: GeometryId
    groups: tuple[GroupGeometry, ...]
    chunk_tokens: int
    sessions: int = 0  # attached or lost, that declared it


class Attachments:
    """Sessions, instances and declared namespaces of one epoch. Invariants: see `validate`."""

    def __init__(self, *, sessions_max: int, namespaces_max: int) -> None:
        self._sessions_max = sessions_max
        self._namespaces_max = namespaces_max
        self._sessions: dict[SessionId, Session] = {}
        self._by_secret: dict[bytes, SessionId] = {}
        self._instances: dict[bytes, Instance] = {}
        self._instance_keys: dict[InstanceId, bytes] = {}
        self._namespaces: dict[bytes, Namespace] = {}  # by digest, the one used last at the end
        self._sessions_made = 0
        self._instances_made = 0

    # Namespaces.

    def namespace(self, digest: bytes) -> Namespace | None:
        return self._namespaces.get(digest)

    def _use(self, digest: bytes) -> Namespace | None:
        if (found := self._namespaces.pop(digest, None)) is not None:
            self._namespaces[digest] = found
        return found

    def require_namespace(self, digest: bytes) -> Namespace:
        """Raises UnknownNamespace."""
        if (found := self._use(digest)) is None:
            raise UnknownNamespace(
                "no session has declared this namespace here, or not for long: attach with a Hello that does, or"
                " compare the two with `penstock doctor keys`"
            )
        return found

    def check_room(self, declaration: Declaration) -> None:
        """Whether a session may attach. Raises TooManySessions, TooManyNamespaces, InstanceMismatch."""
        if len(self._sessions) >= self._sessions_max:
            raise TooManySessions(
                f"{len(self._sessions)} sessions are attached or lost, the bound is"
                f" sessions.sessions_max = {self._sessions_max}: end some, or raise it"
            )
        known = self._namespaces.get(declaration.namespace_digest)
        if (
            known is None
            and len(self._namespaces) >= self._namespaces_max
            and self._longest_unused() is None
        ):
            raise TooManyNamespaces(
                f"sessions of {self._namespaces_max} namespaces are attached or lost, the bound is"
                " sessions.namespaces_max: end some, or raise it"
            )
        instance = self._instances.get(declaration.instance)
        if instance is not None and instance.groups != declaration.groups:
            raise InstanceMismatch(
                "another process of this engine instance declared other groups: all processes of"
                " an instance declare the same groups, in the same order"
            )

    def add_namespace(self, declaration: Declaration, geometry: GeometryId) -> None:
        """One more; when there is no room, instead of the one longest unused that has no session.

        What was cached for that one stays, and is found when it is declared again.
        """
        assert declaration.namespace_digest not in self._namespaces
        if len(self._namespaces) >= self._namespaces_max:
            unused = self._longest_unused()
            assert unused is not None, "check_room() came before"
            del self._namespaces[unused]
        self._namespaces[declaration.namespace_digest] = Namespace(
            geometry, declaration.groups, declaration.chunk_tokens
        )

    def _longest_unused(self) -> bytes | None:
        return next((one for one, known in self._namespaces.items() if not known.sessions), None)

    # Sessions.

    def draw_ids(self, declaration: Declaration) -> tuple[SessionId, InstanceId]:
        """The ids that `attach` is to use; drawn ids that are not used are lost, no more."""
        self._sessions_made += 1
        known = self._instances.get(declaration.instance)
        if known is not None:
            return SessionId(self._sessions_made), known.id
        self._instances_made += 1
        return SessionId(self._sessions_made), InstanceId(self._instances_made)

    def attach(
        self, declaration: Declaration, drawn: SessionId, instance_id: InstanceId, secret: bytes
    ) -> Session:
        """Open a session; `check_room`, `add_namespace` and `draw_ids` came before."""
        instance = self._instances.get(declaration.instance)
        if instance is None:
            instance = Instance(instance_id, declaration.groups)
            self._instances[declaration.instance] = instance
            self._instance_keys[instance.id] = declaration.instance
        session = Session(
            drawn,
            instance.id,
            declaration.client,
            secret,
            declaration.namespace_digest,
            moves_bytes=bool(declaration.slots),
        )
        instance.sessions.add(session.session)
        self.require_namespace(session.namespace).sessions += 1
        self._sessions[session.session] = session
        self._by_secret[secret] = session.session
        return session

    def find(self, session: SessionId) -> Session | None:
        return self._sessions.get(session)

    def by_secret(self, secret: bytes) -> Session | None:
        return self._sessions.get(self._by_secret.get(secret, SessionId(0)))

    def enter(self, secret: bytes) -> Session:
        """Somebody shows `secret` at the arena socket. Raises UnknownSecret.

        The secret is a uniformly random 32-byte dictionary key, so the time of a miss tells nothing of use.
        """
        session = self.by_secret(secret)
        if session is None or session.phase is not Phase.ATTACHED or session.has_entered:
            raise UnknownSecret("no attached session waits with this secret: attach again")
        session.has_entered = True
        return session

    def resumable(self, declaration: Declaration) -> Session | None:
        """The session that `declaration.resume` continues, if its secret is known and its instance the same."""
        session = self.by_secret(declaration.resume)
        if session is None or self._instance_keys[session.instance] != declaration.instance:
            return None
        return session

    def lose(self, session: Session, *, leases_left: int) -> bool:
        """The stream ended. True: the session is over. False: it is LOST, until its process is proven gone."""
        if leases_left and session.has_entered and session.moves_bytes:
            session.phase = Phase.LOST
            return False
        self.forget(session)
        return True

    def forget(self, session: Session) -> None:
        """The session is over. Its instance is too, if it was the last one."""
        del self._sessions[session.session], self._by_secret[session.secret]
        self._namespaces[session.namespace].sessions -= 1
        key = self._instance_keys[session.instance]
        instance = self._instances[key]
        instance.sessions.discard(session.session)
        if not instance.sessions:
            del self._instances[key], self._instance_keys[session.instance]

    def is_over(self, instance: InstanceId) -> bool:
        """Whether nothing of the instance has a stream any more, so that nobody can use its tickets."""
        key = self._instance_keys.get(instance)
        if key is None:
            return True
        return all(
            self._sessions[session].phase is Phase.LOST for session in self._instances[key].sessions
        )

    def attached(self) -> Iterator[Session]:
        return (one for one in self._sessions.values() if one.phase is Phase.ATTACHED)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert len(self._sessions) <= self._sessions_max
        assert len(self._namespaces) <= self._namespaces_max
        declared = Counter(one.namespace for one in self._sessions.values())
        assert declared == {
            digest: one.sessions for digest, one in self._namespaces.items() if one.sessions
        }
        assert {one.session for one in self._sessions.values()} == set(self._by_secret.values())
        members = [session for one in self._instances.values() for session in one.sessions]
        assert sorted(members) == sorted(self._sessions), "every session in exactly one instance"
        assert all(one.sessions for one in self._instances.values()), "an empty instance"
