"""The table's part of the l1 benchmark: batches of 256 keys, called from Python as the node does.

A reading is lookup, acquire, release and close of the ticket; its 256 keys are drawn anew from all
that are resident, so that no two lie near each other in memory (`*_prompt_*`: whole prompts, as they
were written). A writing is reserve and commit of a prompt of 256 new keys. Times are per key and
include the calls and whatever Python does around them.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

from penstock._native import Group, Policy, Rule, Table
from penstock.actors.api.types import NODE_INSTANCE, NODE_SESSION

BATCH_KEYS = 256
BATCHES = 200  # of one measurement
OBJECT_BYTES = 4096
KEY_BYTES = 32
SESSION = 1
INSTANCE = 1
NEVER = float("inf")


@dataclass(frozen=True)
class FullTable:
    """A table with that many keys resident, in prompts of 256, and room for one measurement."""

    table: Table
    geometry: int
    prompts: list[bytes]  # packed keys
    runs: int  # of each object
    rss_bytes_per_object: float  # by how much writing them made the process grow

    @staticmethod
    def of(
        keys: int,
        policy: Policy = Policy.LRU,
        *,
        runs: int = 1,
        news_max: int = 0,
        changes_max: int = 0,
    ) -> FullTable:
        """`news_max`: as with stores below, commits are told of. `changes_max`: as with peers, so is what comes and
        goes."""
        objects_max = keys + BATCHES * BATCH_KEYS
        table = Table(
            arena_bytes=objects_max * OBJECT_BYTES,
            objects_max=objects_max,
            policy=policy,
            quarantine_bytes_max=OBJECT_BYTES,
            news_max=news_max,
            changes_max=changes_max,
        )
        table.attach(NODE_SESSION, instance=NODE_INSTANCE)
        group = Group(rule=Rule.FULL, shard_bytes=[OBJECT_BYTES], shard_runs=[runs])
        geometry = table.add_geometry([group])
        table.attach(SESSION, instance=INSTANCE)
        prompts = _new_prompts(keys // BATCH_KEYS)
        full = FullTable(table, geometry, prompts, runs, rss_bytes_per_object=0.0)
        before_bytes = _rss_bytes()
        for prompt in prompts:
            full.write(prompt)
        grown_bytes = _rss_bytes() - before_bytes
        full = replace(full, rss_bytes_per_object=grown_bytes / (len(prompts) * BATCH_KEYS))
        if changes_max:
            assert table.resident_keys(0, objects_max).is_over
        full.writing_us_per_key()  # the first touch of every record is the kernel's time, not ours
        return full

    def read(self, keys: bytes) -> None:
        ticket, lease = os.urandom(16), os.urandom(16)
        self.table.lookup(
            keys,
            geometry=self.geometry,
            ticket=ticket,
            instance=INSTANCE,
            readers=1,
            now=0.0,
            expires=NEVER,
        )
        acquired = self.table.acquire(
            ticket,
            rank=0,
            slots=(0,),
            first_chunk=0,
            lease=lease,
            session=SESSION,
            now=0.0,
            expires=60.0,
        )
        assert acquired.chunks == BATCH_KEYS
        self.table.release(lease, session=SESSION, now=0.0)
        self.table.close_ticket(ticket, instance=INSTANCE)

    def write(self, keys: bytes) -> None:
        lease = os.urandom(16)
        reserved = self.table.reserve(
            keys,
            parent=b"",
            geometry=self.geometry,
            slots=(0,),
            tenant=0,
            lease=lease,
            session=SESSION,
            now=0.0,
            expires=60.0,
        )
        assert not any(reserved.answers)  # all GRANTED
        runs = _DIGESTS * self.runs if self.runs > 1 else b""
        self.table.commit(lease, session=SESSION, digests=_DIGESTS, runs=runs, now=0.0)

    def reading_us_per_key(self) -> float:
        return self._timed_readings([self._scattered_keys() for _ in range(BATCHES)])

    def prompt_reading_us_per_key(self) -> float:
        return self._timed_readings(random.choices(self.prompts, k=BATCHES))

    def _timed_readings(self, batches: list[bytes]) -> float:
        started = time.perf_counter()
        for keys in batches:
            self.read(keys)
        return _us_per_key(time.perf_counter() - started)

    def writing_us_per_key(self) -> float:
        prompts = _new_prompts(BATCHES)
        started = time.perf_counter()
        for keys in prompts:
            self.write(keys)
        took_s = time.perf_counter() - started
        for keys in prompts:
            assert self.table.drop(keys) == BATCH_KEYS
        self._take_changes()
        return _us_per_key(took_s)

    def taking_changes_us_per_key(self) -> float:
        """What the directory's turn costs of 51,200 chunks that came and 51,200 that went."""
        took_s = 0.0
        prompts = _new_prompts(BATCHES)
        for turn in (self.write, self.table.drop):
            for keys in prompts:
                turn(keys)
            started = time.perf_counter()
            taken = self._take_changes()
            took_s += time.perf_counter() - started
            assert taken == BATCHES * BATCH_KEYS
        return _us_per_key(took_s) / 2

    def _take_changes(self) -> int:
        taken = 0
        while self.table.changes_left:
            changes = self.table.take_changes(4096)
            taken += (len(changes.added) + len(changes.gone)) // KEY_BYTES
        return taken

    def taking_us_per_key(self) -> float:
        """What the store writer's turn costs: news of 51,200 commits, taken and lent 256 at a time, and given back."""
        prompts = _new_prompts(BATCHES)
        self._take_all()
        for keys in prompts:
            self.write(keys)
        started = time.perf_counter()
        taken = self._take_all()
        took_s = time.perf_counter() - started
        assert taken == BATCHES * BATCH_KEYS
        for keys in prompts:
            assert self.table.drop(keys) == BATCH_KEYS
        return _us_per_key(took_s)

    def _take_all(self) -> int:
        taken = 0
        while self.table.news_waiting:
            lease = os.urandom(16)
            borrowed = self.table.take_committed(
                BATCH_KEYS,
                BATCH_KEYS * OBJECT_BYTES,
                lease=lease,
                session=NODE_SESSION,
                now=0.0,
                expires=NEVER,
            )
            taken += borrowed.count
            if borrowed.count:
                self.table.release(lease, session=NODE_SESSION, now=0.0)
        return taken

    def bytes_per_object(self) -> float:
        """What the table says of itself: records, index, run digests and the allocator's pages."""
        numbers = self.table.statistics()
        return numbers.metadata_bytes / numbers.objects

    def _scattered_keys(self) -> bytes:
        picked = []
        for _ in range(BATCH_KEYS):
            start = KEY_BYTES * random.randrange(BATCH_KEYS)
            picked.append(random.choice(self.prompts)[start : start + KEY_BYTES])
        return b"".join(picked)


def _new_prompts(count: int) -> list[bytes]:
    return [os.urandom(BATCH_KEYS * KEY_BYTES) for _ in range(count)]


def _rss_bytes() -> int:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGESIZE")


def _us_per_key(took_s: float) -> float:
    return took_s * 1e6 / (BATCHES * BATCH_KEYS)


_DIGESTS = bytes(8 * BATCH_KEYS)
