"""The clients' common book: every id they heard, every extent they may touch now.

It knows nothing of the node's inside. What the wire promises is enough to catch the worst: two that may write one byte,
or one that writes while another reads.
"""

from __future__ import annotations

import struct
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from session_client import Context, Sent, Violation
from session_input import Named

from penstock.protos import engine_pb2

PAGE_BYTES = 4096
GRANTED = engine_pb2.ANSWER_GRANTED
_EXTENT = struct.Struct("<QQQ")


@dataclass(slots=True)
class Held:
    """A lease whose extents its holder may touch, until it says that it is done or is proven gone."""

    owner: Context
    writes: bool
    extents: dict[int, tuple[int, int]]  # index in the reply -> offset, offset past the end
    farewells: int = 0  # requests under way that may end it; from the first on it touches nothing


@dataclass(slots=True)
class Ledger:
    arena_bytes: int
    ids: dict[Named, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    held: dict[bytes, Held] = field(default_factory=dict)  # by lease
    replies: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by body
    refusals: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by error code
    _mail: deque[tuple[Context, bytes]] = field(default_factory=deque)
    _owners: dict[bytes, Context] = field(default_factory=dict)  # by session secret
    _watermarks: dict[bytes, int] = field(default_factory=dict)  # by ticket, as Progress told it

    def find(self, named: Named, nth_newest: int) -> bytes | None:
        known = self.ids[named]
        return known[-1 - nth_newest % len(known)] if known else None

    def put(self, context: Context, reply: bytes) -> None:
        """Keep a reply for `deliver`: the node's step that wrote it is not charged for what we make of it."""
        self._mail.append((context, reply))

    def deliver(self) -> None:
        """Take all replies that were put, in their order. Raises Violation."""
        while self._mail:
            context, reply = self._mail.popleft()
            context.take_reply(engine_pb2.SessionReply.FromString(reply))

    def note_sent(self, sent: Sent) -> None:
        """The client is done with a lease when it says so, not when it hears that it was heard."""
        if sent.request is None:
            return
        if (lease := _farewell(sent.request)) in self.held:
            self.held[lease].farewells += 1
        if (resumed := self._owners.get(sent.request.hello.resume)) is not None:
            self.forget(resumed)  # refused or not: nothing is said of its leases any more

    def take(self, context: Context, sent: Sent | None, reply: engine_pb2.SessionReply) -> None:
        """Note a reply. Raises Violation when it contradicts what was said before."""
        self.replies[reply.WhichOneof("body") or "nothing"] += 1
        request = engine_pb2.SessionRequest() if sent is None else sent.request
        if request is not None and (lease := _farewell(request)) in self.held:
            self.held[lease].farewells -= 1
        match reply.WhichOneof("body"):
            case "error":
                self.refusals[reply.error.code] += 1
            case "welcome":
                self._take_welcome(context, reply.welcome)
            case "lookup":
                self._take_hit(reply.lookup)
            case "pd_send":
                self.ids[Named.TRANSFER].append(reply.pd_send.transfer)
            case "progress":
                self._take_progress(reply.progress)
            case "acquired":
                self._take_acquired(context, reply.acquired)
            case "reserved":
                self._take_reserved(context, reply.reserved)
            case "committed" if request is not None:
                self._take_committed(context, request.commit, reply.committed.outcomes)
            case "released" if request is not None:
                self._let_go(context, request.release.lease, writes=False)
            case "aborted" if request is not None:
                self._let_go(context, request.abort.lease, writes=True)

    def forget(self, context: Context) -> None:
        """Whoever held by this stream is proven gone, or may have given it up."""
        context.is_forgotten = True
        self.held = {lease: one for lease, one in self.held.items() if one.owner is not context}

    # What each reply says.

    def _take_welcome(self, context: Context, welcome: engine_pb2.Welcome) -> None:
        self._owners[welcome.session_secret] = context
        self.ids[Named.SECRET].append(welcome.session_secret)
        self.ids[Named.EPOCH] = [welcome.epoch]

    def _take_hit(self, hit: engine_pb2.LookupReply) -> None:
        if not hit.hit_chunks <= hit.promised_chunks <= hit.total_chunks:
            raise Violation(f"hit <= promised <= total does not hold: {hit}")
        if hit.final != (hit.hit_chunks == hit.promised_chunks):
            raise Violation(f"final, but more is promised, or the other way round: {hit}")
        if hit.ticket:
            self.ids[Named.TICKET].append(hit.ticket)
        elif hit.promised_chunks:
            raise Violation(f"something was hit, but there is no ticket: {hit}")

    def _take_progress(self, progress: engine_pb2.Progress) -> None:
        before = self._watermarks.get(progress.ticket, 0)
        if not before <= progress.hit_chunks <= progress.promised_chunks:
            raise Violation(f"the watermark was {before} and moved to {progress}")
        self._watermarks[progress.ticket] = progress.hit_chunks

    def _take_acquired(self, context: Context, acquired: engine_pb2.Acquired) -> None:
        extents = dict(self._extents(acquired.extents))
        self._hold(acquired.lease, Held(context, False, extents))
        self.ids[Named.READ_LEASE].append(acquired.lease)

    def _take_reserved(self, context: Context, reserved: engine_pb2.Reserved) -> None:
        if len(reserved.answers) * _EXTENT.size != len(reserved.extents):
            raise Violation("answers and extents of a reservation differ in number")
        extents = dict(self._extents(reserved.extents))
        granted = {index for index, one in enumerate(reserved.answers) if one == GRANTED}
        if granted != set(extents):
            raise Violation("an object without an extent was granted, or the other way round")
        if bool(granted) != bool(reserved.lease):
            raise Violation(
                "a reservation that granted nothing has a lease, or the other way round"
            )
        if granted:
            self._hold(reserved.lease, Held(context, True, extents))
            self.ids[Named.WRITE_LEASE].append(reserved.lease)

    def _take_committed(self, context: Context, commit: engine_pb2.Commit, outcomes: bytes) -> None:
        held = self.held.get(commit.lease)
        if held is None or held.owner is not context or not held.writes:
            if 0 in outcomes and not context.is_forgotten:
                raise Violation("a commit under a lease that is over, or another's, was accepted")
            return
        if not commit.indices:
            del self.held[commit.lease]  # all of it was committed, or it was over
            return
        if len(outcomes) != len(commit.indices):
            raise Violation(f"{len(outcomes)} outcomes of {len(commit.indices)} indices")
        stale = {index for index, one in zip(commit.indices, outcomes, strict=True) if one}
        if stale & set(held.extents):
            del self.held[commit.lease]  # it was over
            return
        for index in commit.indices:
            held.extents.pop(index, None)

    def _let_go(self, context: Context, lease: bytes, *, writes: bool) -> None:
        held = self.held.get(lease)
        if held is not None and held.owner is context and held.writes == writes:
            del self.held[lease]

    # Extents.

    def _hold(self, lease: bytes, given: Held) -> None:
        if not given.owner.is_forgotten:
            self._check_apart(lease, given.extents, writes=given.writes)
            self.held[lease] = given

    def _extents(self, packed: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
        for index, (offset, size, _) in enumerate(_EXTENT.iter_unpack(packed)):
            if not size:
                continue
            end = offset + -(-size // PAGE_BYTES) * PAGE_BYTES
            if offset % PAGE_BYTES or end > self.arena_bytes:
                raise Violation(f"extent {offset}+{size} is misaligned or outside the arena")
            yield index, (offset, end)

    def _check_apart(
        self, lease: bytes, extents: dict[int, tuple[int, int]], *, writes: bool
    ) -> None:
        """Nobody may write what another lease may touch, nor twice the same under one lease."""
        mine = [(*extent, True) for extent in extents.values()]
        others = [
            (*extent, False)
            for other, held in self.held.items()
            if other != lease and not held.farewells and (writes or held.writes)
            for extent in held.extents.values()
        ]
        end_before, was_mine = 0, False
        for start, end, is_mine in sorted(mine + others):
            if start < end_before and (is_mine or was_mine) and (writes or is_mine != was_mine):
                raise Violation(f"extent at {start} is another's too, or given twice")
            if end > end_before:
                end_before, was_mine = end, is_mine


def _farewell(request: engine_pb2.SessionRequest) -> bytes:
    """The lease that a request may end."""
    match request.WhichOneof("body"):
        case "commit":
            return request.commit.lease
        case "release":
            return request.release.lease
        case "abort":
            return request.abort.lease
    return b""
