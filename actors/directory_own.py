"""What this node has, as its peers are told: one filter, one log of changes, and each peer's place in it.

    begin -> learn ... -> known          a walk through L1; the filter grows until all fits
    change ...                           taken from L1, applied, and logged
    forget                               L1 lost changes, or the filter is too small or too large now: walk again

Belongs to the directory; every method is a step without waiting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from penstock import _native
from penstock.actors.api.directory import TooManyWatches, WatchId, WatchOver
from penstock.actors.core.summary import NAME_BYTES, NAMES_MAX, ChangeLog, Changes, Need, Part
from penstock.actors.directory_codec import encode


class OwnSummary:
    def __init__(self, *, backlog_bytes_max: int, watchers_max: int) -> None:
        self._name = int.from_bytes(os.urandom(8), "little")  # of the log
        self._log = ChangeLog(backlog_bytes_max=backlog_bytes_max, watchers_max=watchers_max)
        self._watchers_max = watchers_max
        self._filter = _native.CuckooFilter(_native.CuckooFilter.buckets_for(0))
        self._snapshot: _native.CuckooFilter | None = None  # as it was when one was begun
        self._keys_expected = 0  # by the walk under way
        self._keys_walked = 0  # found by the last one
        self._watches: dict[str, WatchId] = {}  # by node id

    @property
    def is_known(self) -> bool:
        return self._log.is_open

    @property
    def keys(self) -> int:
        return self._filter.keys

    @property
    def summary_bytes(self) -> int:
        """Of the filter, and of its copy that is being sent."""
        return self._filter.bytes + (0 if self._snapshot is None else self._snapshot.bytes)

    @property
    def sequence(self) -> int:
        return self._log.sequence

    @property
    def backlog_bytes(self) -> int:
        return self._log.backlog_bytes

    @property
    def watchers(self) -> int:
        return self._log.watchers

    # What L1 says.

    def forget(self) -> None:
        """What there is has to be gone through again."""
        self._log.close()
        self._snapshot = None

    def begin(self, chunks: int) -> None:
        """A walk through about so many chunks."""
        self.forget()
        self._keys_expected = max(chunks, self._keys_expected)
        self._filter = _native.CuckooFilter(_native.CuckooFilter.buckets_for(self._keys_expected))

    def learn(self, keys: bytes) -> bool:
        """What a step of the walk found. False if there was no room for it: begin again."""
        if self._filter.change(b"", _native.chunk_names(keys)):
            return True
        self._keys_expected = max(self._keys_expected, self._filter.keys) * 5 // 4 + 1
        return False

    def known(self) -> None:
        """The walk is over: from now on there are only changes."""
        self._keys_expected, self._keys_walked = 0, self._filter.keys
        self._log.open()

    def change(self, added: bytes, gone: bytes) -> bool:
        """Packed keys. False if all has to be gone through again."""
        if not added and not gone:
            return True
        names = _native.chunk_names(gone), _native.chunk_names(added)
        if not self._filter.change(*names):
            return False
        for one in _cut(*names):
            changes = Changes(self._name, self._log.sequence, *one)
            self._log.append(changes.end, encode(changes))
        return not (self._filter.is_sparse and 2 * self._filter.keys < self._keys_walked)

    # What watchers hear.

    def watch(self, node_id: str) -> WatchId:
        """A peer watches once: a former watch of its is over. Raises TooManyWatches."""
        if (former := self._watches.get(node_id)) is not None:
            self.unwatch(former)
        watch = self._log.watch()
        if watch is None:
            raise TooManyWatches(f"{self._watchers_max} peers watch this node, as many as may")
        self._watches[node_id] = WatchId(watch)
        return WatchId(watch)

    def unwatch(self, watch: WatchId) -> None:
        for node_id, one in self._watches.items():
            if one == watch:
                del self._watches[node_id]
                break
        self._log.unwatch(watch)
        self._let_go()

    def next_update(self, watch: WatchId) -> bytes | None:
        """None: there is nothing (yet). Raises WatchOver."""
        if not self._log.knows(watch):
            raise WatchOver("the directory knows no such watch; begin another")
        following = self._log.next_of(watch)
        if following is Need.SNAPSHOT:
            self._snapshot = self._filter.copy()
            self._log.snapshot_made(self._snapshot.parts)
            following = self._log.next_of(watch)
        if isinstance(following, Need):
            return None
        if isinstance(following, bytes):
            return following
        assert self._snapshot is not None, "a part of no snapshot"
        part = self._snapshot.part(following.part)
        self._let_go()
        return encode(Part(self._name, following.sequence, following.part, following.parts, part))

    def still(self, watch: WatchId) -> bytes:
        """That nothing has changed; empty if that is not known. Raises WatchOver."""
        if not self._log.knows(watch):
            raise WatchOver("the directory knows no such watch; begin another")
        if not self._log.is_open:
            return b""
        return encode(Changes(self._name, self._log.sequence, b"", b""))

    def _let_go(self) -> None:
        """Of a snapshot that nobody is being sent."""
        if self._snapshot is not None and not self._log.is_snapshot_used:
            self._snapshot = None
            self._log.snapshot_dropped()

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        self._log.validate()
        assert len(self._watches) == self._log.watchers
        assert (self._snapshot is not None) == self._log.is_snapshot_used


def _cut(gone: bytes, added: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Into updates of NAMES_MAX names at most; what is gone first."""
    most = NAMES_MAX * NAME_BYTES
    if len(gone) + len(added) <= most:
        yield gone, added
        return
    for start in range(0, len(gone), most):
        yield gone[start : start + most], b""
    for start in range(0, len(added), most):
        yield b"", added[start : start + most]
