"""Many nodes in virtual time on one core: the real table and the real cores of the directory, under requests of traces.

Each node has its L1 and its directory, and watches all others. Time is a heap of events; a way between two nodes keeps
its order, as a stream does, and takes `delay_s`. What a peer has is read and not kept, as by default.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from penstock import _native
from penstock.actors.api.directory import Heard, PeerUpdate, Promise, WatchId
from penstock.actors.directory_own import OwnSummary
from penstock.actors.directory_peers import PeerSummaries

PAGE_BYTES = 4096
KEY_BYTES = 32
BATCH_CHUNKS = 4096
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    nodes: int
    requests: int  # of each node
    chunks_max: int  # in each node's L1
    rate: float = 1.0  # requests of each node in a second
    pace_s: float = 0.05
    delay_s: float = 0.0005
    restarted: float = 0.3  # share of the nodes, half way through
    noticed_s: float = 3.0  # at most, until a peer notices that another one is gone
    linked_s: float = 2.0  # at most, until a restarted node and a peer are linked again
    seed: int = 1


@dataclass(slots=True)
class Tally:
    """What was counted."""

    lookups: int = 0  # requests
    chunks: int = 0
    local_chunks: int = 0  # hit in the node's own L1
    remote_chunks: int = 0  # promised by a peer, and there
    single_chunks: int = 0  # of them, those of promises of one chunk
    asked: list[int] = field(
        default_factory=list
    )  # peers that said yes, of each first missing chunk
    wrong: int = 0  # the first of them had not even the first chunk
    wrong_single: int = 0  # of them, those that had promised no more than that one
    wrong_of_gone: int = (
        0  # of them, those of peers that had restarted, and were not linked again yet
    )
    updates: int = 0
    update_bytes: int = 0
    snapshots: int = 0
    snapshot_bytes: int = 0
    resyncs: int = 0
    hear_s: float = 0.0  # of this machine
    linked_again_s: float = 0.0  # the last pair of nodes, after the restart


class SimNode:
    """One life of a node."""

    def __init__(self, name: str, life: int, plan: ClusterPlan) -> None:
        self.name = name
        self.epoch = life.to_bytes(16, "little")
        self.table = _native.Table(
            arena_bytes=plan.chunks_max * PAGE_BYTES,
            objects_max=plan.chunks_max,
            policy=_native.Policy.LRU,
            quarantine_bytes_max=PAGE_BYTES,
            changes_max=1 << 18,
        )
        self.table.attach(1, instance=1)
        group = _native.Group(rule=_native.Rule.FULL, shard_bytes=[PAGE_BYTES])
        self._geometry = self.table.add_geometry([group])
        self.own = OwnSummary(backlog_bytes_max=16 << 20, watchers_max=2048)
        self.peers = PeerSummaries(bytes_max=1 << 30, peers_max=2048)
        self.watches: dict[str, WatchId] = {}  # by who watches
        self.told_s = -NEVER  # when its last batch went out
        self.is_due = False  # a batch is under way
        self._leases = itertools.count(1)
        self.walk()

    def hit(self, keys: bytes) -> int:
        return self.table.peek(keys, geometry=self._geometry) if keys else 0

    def put(self, keys: bytes, now: float) -> None:
        """Computed here. A prompt that is larger than L1 is kept as far as it fits."""
        missing = len(keys) // KEY_BYTES - self.table.free_bytes // PAGE_BYTES
        if missing > 0:
            self.table.evict(missing * PAGE_BYTES, now=now)
        lease = next(self._leases).to_bytes(16, "little")
        reserved = self.table.reserve(
            keys,
            parent=b"",
            geometry=self._geometry,
            slots=(0,),
            tenant=0,
            lease=lease,
            session=1,
            now=now,
            expires=NEVER,
        )
        if granted := reserved.answers.count(0):
            self.table.commit(lease, session=1, digests=bytes(8 * granted), runs=b"", now=now)

    def walk(self) -> None:
        is_over, cursor = False, 0
        while not is_over:
            step = self.table.resident_keys(cursor, BATCH_CHUNKS)
            if cursor == 0:
                self.own.begin(self.table.statistics().chunks)
            cursor, is_over = step.cursor, step.is_over
            if not self.own.learn(step.keys):
                cursor, is_over = 0, False
        self.own.known()

    def take_changes(self) -> None:
        while self.table.changes_left or self.table.changes_lost:
            taken = self.table.take_changes(BATCH_CHUNKS)
            if self.table.changes_lost or not self.own.change(taken.added, taken.gone):
                self.walk()


class SimCluster:
    def __init__(self, plan: ClusterPlan) -> None:
        self.plan = plan
        self.tally = Tally()
        self.now = 0.0
        self._draw = random.Random(plan.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._lives = itertools.count(1)
        names = [f"n{number:03d}" for number in range(plan.nodes)]
        self.nodes = {name: SimNode(name, next(self._lives), plan) for name in names}
        self._restarted_s = NEVER
        self._restarted: set[str] = set()
        for watcher, source in itertools.permutations(names, 2):
            self._link(watcher, source)

    def run(self, requests: Sequence[bytes]) -> Tally:
        """`requests`: packed keys of prompts, in order; each comes to a node by lot, spaced by lot."""
        for at_s, keys in self._arrivals(requests):
            name = self._draw.choice(list(self.nodes))
            self._at(at_s, lambda keys=keys, name=name: self._request(name, keys))
        end_s = self.plan.requests / self.plan.rate
        self._at(end_s / 2, self._restart_some)
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()
        return self.tally

    def _arrivals(self, requests: Sequence[bytes]) -> Iterator[tuple[float, bytes]]:
        at_s, gap_s = 0.0, 1 / (self.plan.rate * self.plan.nodes)
        for keys in requests:
            at_s += self._draw.expovariate(1 / gap_s)
            yield at_s, keys

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), act))

    # Requests.

    def _request(self, name: str, keys: bytes) -> None:
        node, tally = self.nodes[name], self.tally
        at, chunks = 0, len(keys) // KEY_BYTES
        while at < chunks:
            local = node.hit(keys[at * KEY_BYTES :])
            tally.local_chunks += local
            at += local
            promised = node.peers.promised(keys, at) if at < chunks else ()
            if at < chunks:
                tally.asked.append(len(promised))
            if not promised or not (remote := self._read(promised[0], keys, at)):
                break
            tally.remote_chunks += remote
            at += remote
        node.table.touch(keys, now=self.now)
        node.put(keys[at * KEY_BYTES :], self.now) if at < chunks else None
        tally.lookups += 1
        tally.chunks += chunks
        self._tell_soon(node)

    def _read(self, promise: Promise, keys: bytes, at: int) -> int:
        """How many chunks of what was promised are there."""
        wanted = keys[at * KEY_BYTES : (at + promise.chunks) * KEY_BYTES]
        found = self.nodes[promise.node_id].hit(wanted)
        self.tally.single_chunks += found == promise.chunks == 1
        if not found:
            self.tally.wrong += 1
            self.tally.wrong_single += promise.chunks == 1
            agreed_s = self._restarted_s + self.plan.noticed_s + self.plan.linked_s
            is_gone = promise.node_id in self._restarted and self.now <= agreed_s
            self.tally.wrong_of_gone += is_gone
        return found

    # Updates.

    def _tell_soon(self, node: SimNode) -> None:
        if not node.is_due and node.table.changes_due:
            node.is_due = True
            self._at(max(self.now, node.told_s + self.plan.pace_s), lambda: self._tell(node))

    def _tell(self, node: SimNode) -> None:
        node.is_due, node.told_s = False, self.now
        node.take_changes()
        self._at(self.now + self.plan.delay_s, lambda: self._deliver_all(node))

    def _deliver_all(self, node: SimNode) -> None:
        for watcher in [*node.watches]:
            self._deliver(watcher, node)

    def _deliver(self, watcher: str, source: SimNode) -> None:
        """All that the source has for this watcher."""
        if self.nodes[source.name] is not source or watcher not in source.watches:
            return
        hearing, tally = self.nodes[watcher].peers, self.tally
        began = time.process_time()
        while (update := source.own.next_update(source.watches[watcher])) is not None:
            heard = hearing.hear(PeerUpdate(source.name, source.epoch, update))
            tally.updates += 1
            tally.update_bytes += len(update)
            if heard is not Heard.KEPT:
                tally.resyncs += 1
                source.own.unwatch(source.watches[watcher])
                source.watches[watcher] = source.own.watch(watcher)
        tally.hear_s += time.process_time() - began

    def _link(self, watcher: str, source: str) -> None:
        node, before = self.nodes[source], self.tally.update_bytes
        if watcher in node.watches:
            return
        node.watches[watcher] = node.own.watch(watcher)
        self._deliver(watcher, node)
        self.tally.snapshots += 1
        self.tally.snapshot_bytes += self.tally.update_bytes - before
        if self._restarted:
            self.tally.linked_again_s = max(self.tally.linked_again_s, self.now - self._restarted_s)

    # Restarts.

    def _restart_some(self) -> None:
        """They lose all they had, at once; their peers find out one by one, and are linked again a while later."""
        self._restarted_s = self.now
        count = round(self.plan.restarted * len(self.nodes))
        self._restarted = {*self._draw.sample(sorted(self.nodes), count)}
        for name in sorted(self._restarted):
            for node in self.nodes.values():
                if (watch := node.watches.pop(name, None)) is not None:
                    node.own.unwatch(watch)
            self.nodes[name] = SimNode(name, next(self._lives), self.plan)
        for watcher, source in itertools.permutations(self.nodes, 2):
            if {watcher, source} & self._restarted:
                gone_s = self.now + self._draw.uniform(0, self.plan.noticed_s)
                linked_s = gone_s + self._draw.uniform(0, self.plan.linked_s)
                if watcher not in self._restarted:
                    self._at(gone_s, lambda w=watcher, s=source: self.nodes[w].peers.gone(s))
                self._at(linked_s, lambda w=watcher, s=source: self._link(w, s))

    # Afterwards.

    def check(self) -> int:
        """Raise AssertionError unless every node knows of every other one what that has. Answers the pairs."""
        pairs = 0
        for watcher in self.nodes.values():
            watcher.peers.validate()
            known = {one.node_id: one for one in watcher.peers.measure()}
            for source in self.nodes.values():
                if source is watcher:
                    continue
                pairs += 1
                seen = known[source.name]
                assert seen.is_following, f"{watcher.name} does not follow {source.name}"
                assert seen.keys == source.own.keys == source.table.statistics().chunks
        return pairs


def prompts_of(
    blocks: Sequence[tuple[str, tuple[int, ...]]], count: int, *, chunks_max: int
) -> list[bytes]:
    """Packed keys of so many prompts, as (scope, block ids) name them: in order, and again under other names when there
    are not enough, so that none is ever hit that the trace would not have hit."""
    keys: dict[tuple[int, str, int], bytes] = {}

    def key_of(copy: int, scope: str, block: int) -> bytes:
        name = (copy, scope, block)
        if name not in keys:
            keys[name] = hashlib.sha256(repr(name).encode()).digest()
        return keys[name]

    copies = -(-count // len(blocks))
    prompts = []
    for number in range(count):
        copy, (scope, ids) = number % copies, blocks[number // copies]
        prompts.append(b"".join(key_of(copy, scope, one) for one in ids[:chunks_max]))
    return prompts
