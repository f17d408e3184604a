"""Penstock's data plane."""

import builtins
import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from typing_extensions import Buffer

# -------------------------------------------------------------------------------------------------
# The L1 table: csrc/core/table.hpp. Words: a chunk is named by its 32-byte key; its objects by
# their slot, which counts the shards of the geometry's groups in order. Sessions, instances and
# tenants are numbers given by the node. Lease and ticket ids are 16 random bytes drawn by the
# caller. Times are monotonic seconds, given by the caller: the table reads no clock and draws
# nothing, and time acts only in `expire`: a lease or ticket is alive until that call ends it.
# Packed keys are a multiple of 32 bytes, in prompt order, 1 to 1048576 of them. A lease is of at
# most 1048576 objects.
# -------------------------------------------------------------------------------------------------

class TableError(Exception):
    """A refusal by the table. Nothing was changed by the refused call."""

class WrongThread(TableError):
    """A table belongs to the thread of its first call, and another one called."""

class GeometryUnknown(TableError):
    """No such geometry; or, to a writer, a chunk of these keys was written under another one. To
    readers such a chunk is absent.
    """

class SessionUnknown(TableError):
    """The session or instance is not attached (any more), or the session is attached already."""

class TicketUnknown(TableError):
    """The ticket never existed, belongs to another instance, was closed or has expired."""

class RankTaken(TableError):
    """Another session holds a lease for this rank of the ticket."""

class QuarantineFull(TableError):
    """The instance has left so much memory in overdue leases and quarantine that it gets no new
    leases.
    """

class TableFull(TableError):
    """A bound of the table is reached: leases, tickets, or readers of one object (65535)."""

class IdTaken(TableError):
    """A live lease or ticket has this id."""

class BadKeys(TableError, ValueError):
    """Packed keys, or a parent, of a wrong length; or keys that are not those of the ticket."""

class BadArgument(TableError, ValueError):
    """Any other argument out of its range; the text says which and what is allowed."""

class Answer(enum.IntEnum):
    """What Reserve says of one object."""

    GRANTED = 0  # an extent to write
    RESIDENT = 1  # already there
    IN_FLIGHT = 2  # being written or loaded by somebody else
    NO_ROOM = 3  # no extent, or no record; evict and ask again
    QUOTA = 4  # the tenant's quota would be exceeded

class Outcome(enum.IntEnum):
    OK = 0
    # The lease is over (expired, released, orphaned), or was never this session's, or the object was
    # never granted or is settled: nothing changed for anybody else.
    STALE = 1

class Presence(enum.IntEnum):
    """Of one object that a reader wants."""

    ABSENT = 0
    RESIDENT = 1
    COMING = 2  # somebody writes or loads it

class Pool(enum.Enum):
    """Which part of the arena."""

    CACHE = 0  # arena_bytes, from offset 0
    PD = 1  # pd_bytes, behind them

class Rule(enum.Enum):
    """What a hit of n chunks needs of a group, on every shard."""

    FULL = 0  # all n chunks
    WINDOW = 1  # the last min(window_chunks, n)
    STATE = 2  # chunk n - 1

class Policy(enum.Enum):
    """Which chunk or object goes first when room is needed: docs/POLICIES.md."""

    LRU = 0
    S3FIFO = 1
    SIEVE = 2
    ARC = 3
    TINYLFU = 4
    PROSPECT = 5

class Group:
    """One layer group of a geometry.

    `shard_bytes`: exact object bytes of each shard, > 0. `shard_runs`: (layer, component) runs in
    an object of each shard, >= 1; empty means one each. `window_chunks`: >= 1 for Rule.WINDOW, else
    ignored. Checked by Table.add_geometry.
    """

    def __init__(
        self,
        *,
        rule: Rule,
        shard_bytes: Sequence[int],
        shard_runs: Sequence[int] = (),
        window_chunks: int = 0,
    ) -> None: ...

class Hit(NamedTuple):
    hit: int  # chunks readable now
    promised: int  # chunks readable once what is being written now is committed; >= hit

class Acquired:
    """A read lease. `extents`: packed records of three u64 (offset, bytes, digest), chunk-major,
    one per slot asked for; bytes == 0 where no object is: its group does not need it, or it was
    dropped since the lookup.
    """

    @property
    def lease(self) -> bytes: ...
    @property
    def extents(self) -> bytes: ...
    @property
    def chunks(self) -> int: ...  # chunks covered, from first_chunk to the ticket's end

class Reserved:
    """`answers`: one byte of Answer per (chunk, slot), chunk-major. `extents`: as in Acquired, one
    per answer, digest 0, bytes == 0 unless GRANTED. `bytes_missing`: arena bytes of what was
    answered NO_ROOM and for which evicting could make room; 0 if it would help nothing.
    `own_bytes_missing`: the same of what was answered QUOTA, by evicting the tenant's own.
    """

    @property
    def answers(self) -> bytes: ...
    @property
    def extents(self) -> bytes: ...
    @property
    def bytes_missing(self) -> int: ...
    @property
    def own_bytes_missing(self) -> int: ...

class Evicted:
    """`bytes`: arena bytes free now. `quarantined_bytes`: evicted, but an overdue reader still
    holds them. `keys`: packed keys of the evicted chunks, in order. `is_over`: evict found nothing
    that may go any more; when not, and too little was freed, ask again.
    """

    @property
    def bytes(self) -> int: ...
    @property
    def quarantined_bytes(self) -> int: ...
    @property
    def chunks(self) -> int: ...
    @property
    def objects(self) -> int: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def keys(self) -> builtins.bytes: ...

class Borrowed:
    """Objects of one geometry that the node itself reads under a read lease, which exists if
    `count` is not 0.

    `keys`: packed keys of their chunks. `objects`: packed records "<QQQIIHHI" of (offset, bytes,
    digest, chunk, tenant, slot, 0, runs), 40 bytes each: `chunk` counts in `keys`, `bytes` is
    exact. `runs`: the packed u64 run digests of all of them in order, so many of each; 0 of one
    that was committed without any. `bytes`: what they take of the arena.
    `named_keys`, `named_slots` (packed u16), `named_bytes`: news for which `bytes_max` left no
    room; not held. `gone`: how many were named in news and are not resident any more. `is_over`: of
    victims, nothing is left that may go. `geometry` means nothing when nothing is held or named.
    """

    @property
    def geometry(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def keys(self) -> builtins.bytes: ...
    @property
    def objects(self) -> builtins.bytes: ...
    @property
    def runs(self) -> builtins.bytes: ...
    @property
    def bytes(self) -> int: ...
    @property
    def named_keys(self) -> builtins.bytes: ...
    @property
    def named_slots(self) -> builtins.bytes: ...
    @property
    def named_bytes(self) -> int: ...
    @property
    def gone(self) -> int: ...
    @property
    def is_over(self) -> bool: ...

class Ended:
    """What one step has ended: `count` leases or tickets; `is_over`: nothing is left to end."""

    @property
    def count(self) -> int: ...
    @property
    def is_over(self) -> bool: ...

class Expired(NamedTuple):
    read_leases: int
    write_leases: int
    tickets: int

class Changes:
    """Packed keys of chunks; no chunk is in both."""

    @property
    def added(self) -> bytes: ...
    @property
    def gone(self) -> bytes: ...

class Residents:
    """A step through the chunks there are."""

    @property
    def keys(self) -> bytes: ...  # packed
    @property
    def cursor(self) -> int: ...  # where the next step begins
    @property
    def is_over(self) -> bool: ...

class Statistics:
    """Gauges in arena bytes (whole pages) and counts; counters since the table was made."""

    bytes_total: int
    bytes_free: int
    bytes_reserved: int
    bytes_loaded: int
    bytes_resident: int
    bytes_quarantined: int  # total = free + reserved + loaded + resident + quarantined
    bytes_pinned: int  # the part of bytes_resident in chunks that a ticket or a live lease holds
    largest_free_bytes: int
    chunks: int  # with at least one object
    placeholders: int  # without any, kept because they have children
    objects: int  # not counting quarantined ones
    leases: int  # live ones, reading and writing
    overdue_leases: int  # expired or orphaned, not yet given up: they hold memory back
    tickets: int
    sessions: int
    metadata_bytes: int  # records ever used, the whole index, run digests, the allocator's pages
    evicted_chunks: int  # counter
    evicted_bytes: int  # counter
    damaged_objects: int  # counter: named in a release
    discarded_objects: int  # counter: reservations that were aborted, expired or orphaned
    expired_leases: int  # counter
    stale_calls: int  # counter: release, commit, abort or close that found nothing of the caller's
    returned_handles: int  # counter: drained from the return queue
    pd_bytes_total: int  # of Pool.PD, which nothing above counts bytes of
    pd_bytes_free: int
    pd_bytes_reserved: int
    pd_bytes_loaded: int
    pd_bytes_quarantined: int  # total = free + reserved + loaded + quarantined
    pd_largest_free_bytes: int

class Table:
    """The index of L1, the state of every object in it, and who may read, write or evict what.

    Every method is O(size of its arguments) and waits for nothing. All of them but `lease_handle`
    destructors belong to one thread, that of the first call; another raises WrongThread.
    `story_events_max` events are kept for `story`.

    `objects_max`: bound of objects and of chunks. Address space for that many is taken at once,
    memory as it is used. `quarantine_bytes_max`: see QuarantineFull; per engine instance.
    `hash_seed`: a secret keeps crafted keys from colliding in the index. `news_max`: names of
    objects that sessions other than 0, the node's own, have committed, kept for `take_committed`.
    `changes_max`: chunks whose coming and going is kept for `take_changes`, 52 bytes each; 0: none, at no cost.
    `fair_share`: `evict` and `victims` spare a tenant within its share of what is taken (less than
    7/8 of it) while another, who is not, has something that may go.

    `arena_bytes` are the cache, Pool.CACHE: the offsets below it. `pd_bytes` lie behind them, are taken by `reserve`
    with Pool.PD and by nothing else, and are counted apart; so are their objects, of which there are `pd_objects_max`
    (1 or more with `pd_bytes`, 0 without). Neither pool ever serves for the other.
    """

    def __init__(
        self,
        *,
        arena_bytes: int,
        pd_bytes: int = 0,
        objects_max: int,
        pd_objects_max: int = 0,
        policy: Policy,
        quarantine_bytes_max: int,
        leases_max: int = 65536,
        tickets_max: int = 65536,
        story_events_max: int = 0,
        news_max: int = 0,
        changes_max: int = 0,
        fair_share: bool = False,
        hash_seed: int = 0,
    ) -> None: ...
    def add_geometry(self, groups: Sequence[Group]) -> int:
        """A new number on every call, at most 65535 of them. Raises BadArgument for no group, more
        than 64 groups or more than 4096 slots, or a group that cannot be.
        """

    def set_quota(self, tenant: int, bytes_max: int) -> None:
        """Bound of the arena bytes of a tenant's objects; 0: none. What exceeds a lowered quota
        stays until evicted.
        """

    def set_weight(self, tenant: int, weight: int) -> None:
        """A tenant's share is its weight, 1 to 1000 and 1 unless set, over the weights of all
        tenants that have anything in L1. Raises BadArgument.
        """

    def bytes_of(self, tenant: int) -> int: ...
    def attach(self, session: int, *, instance: int) -> None:
        """Instance 0 is the node itself: the bound of quarantine is not for it."""

    # Reading.

    def peek(self, keys: bytes, *, geometry: int) -> int:
        """Hit chunks now. Changes nothing, recency included."""

    def promised(self, keys: bytes, *, geometry: int) -> int:
        """Hit chunks if everything that is being written or loaded now were readable. Changes
        nothing.
        """

    def lookup(
        self,
        keys: bytes,
        *,
        geometry: int,
        ticket: bytes,
        instance: int,
        readers: int,
        now: float,
        expires: float,
    ) -> Hit:
        """The hit by every group's rule. If it is not 0, a ticket is opened that pins these chunks;
        they are touched.

        `readers`: 1 to 128, the ranks that may acquire. The ticket lives until it is closed,
        expires, or its instance is gone, whatever becomes of leases made from it.
        """

    def open_ticket(
        self,
        ticket: bytes,
        *,
        geometry: int,
        instance: int,
        readers: int,
        now: float,
        expires: float,
    ) -> None:
        """A ticket of no chunks, to be extended."""

    def extend(self, ticket: bytes, keys: bytes, *, now: float) -> int:
        """Pin what has become readable of `keys`, the whole prompt's, for a ticket: its new hit,
        never less than before.

        Counts LOADED objects besides RESIDENT ones: they are readable by the tickets of their load,
        and the caller says by this call that the ticket is one. Raises TicketUnknown, BadKeys.
        """

    def follow(self, ticket: bytes, keys: bytes, *, now: float) -> Hit:
        """As extend, but of what is new only RESIDENT objects count: for tickets that wait for no load, or for
        others. With nothing but Rule.FULL it costs what is new and what is promised, and not the prompt.
        """

    def step(self, ticket: bytes, keys: bytes, *, now: float) -> Hit:
        """As follow, but with nothing but Rule.FULL at the cost of what is new alone: `promised` is above `hit` when
        what comes next is on its way, and says nothing of what is beyond.
        """

    def has_ticket(self, ticket: bytes) -> bool:
        """Whether the ticket is not over."""

    def tell_end(self, ticket: bytes) -> None:
        """When the ticket is over, unless by `close_ticket`, `take_ended` names it. Whoever asks for this has to take
        them: they are kept until then. Raises TicketUnknown.
        """

    def take_ended(self) -> bytes:
        """Ids, 16 bytes each, of tickets that came to their end since the last call; see `tell_end`."""

    def presence(self, keys: bytes, *, geometry: int) -> bytes:
        """One byte of Presence for every slot of the geometry of each chunk, chunk-major. Changes nothing."""

    def acquire(
        self,
        ticket: bytes,
        *,
        rank: int,
        slots: Sequence[int],
        first_chunk: int,
        lease: bytes,
        session: int,
        now: float,
        expires: float,
    ) -> Acquired:
        """Turn reader slot `rank` into a lease of `session` on the objects of `slots` (ascending)
        from `first_chunk` (below or at the ticket's end).

        While the session holds a live lease of this rank, it is given again, as it was made. A
        released, overdue or orphaned one makes room for another. Raises TicketUnknown, RankTaken,
        SessionUnknown, QuarantineFull, TableFull, IdTaken, BadArgument.
        """

    def release(
        self, lease: bytes, *, session: int, damaged: Sequence[int] = (), now: float
    ) -> Outcome:
        """End a read lease. OK: what was copied under it counts. STALE: discard it.

        `damaged`: indices into the lease's extents whose bytes did not digest to their digest:
        these objects leave the index, whatever the outcome is, if the lease is this session's and
        not yet released. An overdue lease of this session gives its extents back, but is STALE.
        Raises BadArgument for an index out of range.
        """

    def close_ticket(self, ticket: bytes, *, instance: int) -> Outcome: ...
    def chunks_of(self, ticket: bytes) -> int:
        """How many chunks a ticket pins, which is what closing it costs; 0 when it is over."""

    def touch(self, keys: bytes, *, now: float) -> int:
        """Make these chunks recent, as a lookup does. Returns how many of them are resident."""

    # Writing.

    def reserve(
        self,
        keys: bytes,
        *,
        parent: bytes,
        geometry: int,
        slots: Sequence[int],
        tenant: int,
        lease: bytes,
        session: int,
        now: float,
        expires: float,
        pool: Pool = Pool.CACHE,
    ) -> Reserved:
        """Ask for extents for the objects of `slots` (ascending) of consecutive chunks of one
        prompt, all of one pool: Pool.CACHE unless given.

        In Pool.PD no tenant is charged and nothing is evicted: `bytes_missing` is what NO_ROOM kept out and the whole
        pool, empty, would hold beside what was granted. Its objects are temporary: `loaded`, never committed, readable
        by the tickets that are extended over them, and free when the lease is ended and their readers have left.

        `parent`: key of the chunk before the first, b"" at the prompt's start. After the first
        NO_ROOM or QUOTA all that follows is answered the same: nothing beyond a hole is worth room.
        The lease exists if anything was GRANTED. The tenant of a chunk is that of its first object.
        Raises SessionUnknown, GeometryUnknown, QuarantineFull, TableFull, IdTaken, BadKeys,
        BadArgument.
        """

    def make_ready(
        self, keys: bytes, *, geometry: int, slots: Sequence[int], chunks_before: int = 0
    ) -> None:
        """Back the memory that `reserve` will write for these chunks, so that it meets no page
        faults: some microseconds for each object of a table that was never as full before.

        A long prompt is made ready part by part, each with the number of chunks in those before it.
        Grants nothing and changes nothing that can be seen. Raises GeometryUnknown, BadKeys,
        BadArgument.
        """

    def commit(
        self,
        lease: bytes,
        *,
        session: int,
        indices: Sequence[int] = (),
        digests: bytes,
        runs: bytes = b"",
        now: float,
    ) -> bytes:
        """Objects are whole: RESERVED or LOADED -> RESIDENT. One byte of Outcome per index.

        `indices` into the reservation's answers; empty: all that are granted and neither committed
        nor aborted, in order. `digests`: packed u64, one per index; b"" leaves those of LOADED
        objects, and is refused for RESERVED ones. `runs`: packed u64, all run digests of each
        object in turn, as many as its geometry says; b"": not kept. The lease is over when nothing
        of it is left to commit. STALE for everything when the lease is over or another session's;
        the memory of an expired reservation of this session is free then, since its writer is done.
        Raises BadArgument, for a lease in Pool.PD too.
        """

    def commit_some(
        self,
        lease: bytes,
        *,
        session: int,
        indices: Sequence[int],
        digests: bytes,
        runs: bytes,
        done: int,
        runs_done: int,
        objects_max: int,
        now: float,
    ) -> tuple[bytes, int]:
        """A part of `commit`, of at most so many objects, when `done` of the request's were committed
        before with `runs_done` of its run digests. All that is left is checked first. Returns the
        outcomes of this part, and `runs_done` for the next. Without a living lease all that is left
        is STALE at once.
        """

    def loaded(
        self,
        lease: bytes,
        *,
        session: int,
        indices: Sequence[int] = (),
        digests: bytes,
        runs: bytes = b"",
        now: float,
    ) -> bytes:
        """As commit, RESERVED -> LOADED: verified, readable only by tickets extended over it, still
        to be committed.
        """

    def abort(self, lease: bytes, *, session: int) -> Outcome:
        """The owner no longer writes: what it did not commit is free at once. STALE as in
        commit.
        """

    def salvage(self, lease: bytes, *, session: int, into: bytes) -> bool:
        """A reservation failed in part: what is LOADED of it goes on as the lease `into`, which never expires. The
        rest leaves the index at once, and its memory is quarantined until the old lease is ended, which says that
        nobody writes it any more. False if nothing was LOADED, or if there is no room for one more lease: then all of
        it leaves the index. Raises IdTaken.
        """

    def runs(self, key: bytes, slot: int) -> bytes:
        """Packed u64 digests of the runs of a RESIDENT object: its object digest when it has one
        run only; b"" when they were not kept or there is no such object.
        """

    # Life cycle.

    def expire(self, now: float, *, objects_max: int = ...) -> Expired:
        """End what expires at or before `now`. Read leases become overdue: their objects may leave
        the index, their memory stays. Reservations leave the index, their memory is quarantined.
        Tickets are closed. One call goes on until it had `objects_max` objects and chunks (default:
        no bound), and leaves a lease half way if need be; while `next_expiry` is not later than
        `now`, there is more to do. Counted are leases that are overdue wholly, and tickets.
        """

    def next_expiry(self) -> float:
        """Earliest expiry of a live lease or ticket; inf if there is none."""

    def stream_lost(self, session: int) -> int:
        """Orphan all its leases, as if they had expired. Returns how many it leaves behind that hold
        memory, those that were overdue before included. Raises SessionUnknown.
        """

    def process_gone(self, session: int) -> int:
        """Its process is proven dead: everything of it is free. Returns how many leases that ended;
        0 if unknown.
        """

    def give_up(self, session: int) -> int:
        """Its living owner touches nothing of it any more: as process_gone."""

    def orphan_some(self, session: int, objects_max: int) -> Ended:
        """A step of `stream_lost`, which must follow: about so many objects, and one row of a lease
        at least. Counts the leases that it brought to an end.

        A lease that is left half way is overdue to its owner already. Whoever names it finishes it.
        """

    def forsake_some(self, session: int, objects_max: int, pool: Pool = Pool.CACHE) -> Ended:
        """As `orphan_some`, of its reservations in one pool, Pool.CACHE unless given: what they are of leaves the
        index, and their memory comes back when they are ended. The session goes on.
        """

    def end_some(self, session: int, objects_max: int) -> Ended:
        """The same of `process_gone` and `give_up`: leases, then the tickets that these would close.

        A lease that is left half way is over to its owner already. Counts leases.
        """

    def instance_gone(self, instance: int) -> int:
        """Close the instance's tickets; returns how many. Its sessions stay until each is gone."""

    def close_some(self, instance: int, chunks_max: int) -> Ended:
        """A step of `instance_gone`: tickets until they had so many chunks, and one at least."""

    def evict(self, bytes_wanted: int, *, chunks_max: int = ..., now: float) -> Evicted:
        """Free leaf chunks by policy, whole, never pinned or being written, until `bytes_wanted`
        arena bytes were freed, `chunks_max` chunks have gone (default: no bound) or nothing is left.
        """

    def evict_own(
        self, tenant: int, bytes_wanted: int, *, chunks_max: int = ..., now: float
    ) -> Evicted:
        """The same of one tenant's chunks, if they became idle while it was under a quota: prompt by prompt, those
        idle longest first, each from its end, and of one geometry.
        """

    def evict_these(self, keys: bytes, *, now: float) -> Evicted:
        """Those of these chunks that `evict` might take now, in this order; others stay."""

    # Borrowing: read leases for the node's own use. They touch nothing: to be saved is no use.
    # Raise SessionUnknown, QuarantineFull, TableFull, IdTaken, BadArgument.

    def borrow(
        self,
        keys: bytes,
        *,
        geometry: int,
        lease: bytes,
        session: int,
        now: float,
        expires: float,
        wanted: bytes = b"",
    ) -> Borrowed:
        """All resident objects of these chunks. Chunks of another geometry are absent. `wanted`: one
        byte per slot of each chunk, chunk-major, 0: not that object; empty: all. Raises BadKeys,
        BadArgument, GeometryUnknown.
        """

    def borrow_writing(
        self,
        writing: bytes,
        writer: int,
        indices: bytes,
        *,
        lease: bytes,
        session: int,
        now: float,
        expires: float,
    ) -> Borrowed:
        """What session `writer` writes under its lease `writing` and has not committed: objects of these indices,
        packed u32, ascending. Their digests are not known. When the reservation ends, in whatever way, readers keep
        the memory. `is_over`: it has ended, or is another session's; nothing is held. Raises BadArgument, also for
        what was not granted or is committed; TableFull.
        """

    def take_committed(
        self,
        objects_max: int,
        bytes_max: int,
        *,
        lease: bytes,
        session: int,
        now: float,
        expires: float,
    ) -> Borrowed:
        """Take the oldest news, at most so many, of one geometry and one tenant. What takes more
        than `bytes_max` of the arena together is only named.
        """

    def victims(
        self,
        bytes_wanted: int,
        chunks_max: int,
        *,
        lease: bytes,
        session: int,
        now: float,
        expires: float,
    ) -> Borrowed:
        """What `evict` would take, in its order, but held and still there; of one geometry. None, and
        not over: all that was looked at was spared, as what is within its share; ask again."""

    def victims_own(
        self,
        tenant: int,
        bytes_wanted: int,
        chunks_max: int,
        *,
        lease: bytes,
        session: int,
        now: float,
        expires: float,
    ) -> Borrowed:
        """The same of what `evict_own` would take."""

    def let_go(self, lease: bytes, *, session: int, now: float) -> Outcome:
        """A read lease becomes overdue before its time: its objects may leave the index, their memory
        comes back when the lease ends.
        """

    @property
    def news_waiting(self) -> int:
        """How many objects are named in news that nobody has taken."""

    @property
    def news_bytes(self) -> int:
        """Their exact bytes."""

    @property
    def news_lost(self) -> int:
        """Counter: the oldest news that gave way to newer news."""

    def take_changes(self, chunks_max: int) -> Changes:
        """The oldest changes, of at most so many chunks, each of them once: what came and went in between is neither.

        With what `resident_keys` has told since it began they make the chunks that lookups can hit in the records that
        it has been through. None while `changes_lost`.
        """

    def resident_keys(self, cursor: int, chunks_max: int) -> Residents:
        """A step through the next so many records of chunks: those that lookups can hit, less those that `take_changes`
        will tell of. `cursor` 0 begins anew, and forgets all changes.

        Raises BadArgument if `cursor` is neither 0 nor `changes_cursor`, or the table keeps no changes.
        """

    @property
    def changes_due(self) -> bool:
        """Whether there are changes to be taken, or they were lost."""

    @property
    def changes_left(self) -> bool:
        """Whether there are changes to be taken."""

    @property
    def changes_lost(self) -> bool:
        """There were more than `changes_max`, or nobody has begun: begin with `resident_keys(0, ...)`."""

    @property
    def changes_cursor(self) -> int:
        """Where the last step of `resident_keys` ended."""

    def drop_objects(self, keys: bytes, slots: bytes) -> int:
        """Invalidate single objects: one packed u16 slot for each key. Returns how many were
        resident. Who reads one keeps its memory until the release. Raises BadArgument.
        """

    def drop(self, keys: bytes) -> int:
        """Invalidate: chunks leave the index with all their objects that are not being written.
        Returns how many did. Who reads one keeps its memory until the release.
        """

    @property
    def free_bytes(self) -> int: ...
    def statistics(self) -> Statistics: ...
    def validate(self) -> None:
        """Check every invariant against the allocator too, in time linear in the table. Raises
        AssertionError.
        """

    def story(self, key: bytes) -> list[str]:
        """The kept events of a chunk, oldest first."""

    # Handles that die on other threads.

    @property
    def return_fd(self) -> int:
        """An eventfd, readable when handles died since the last call; any call of the table drains
        them.
        """

    def lease_handle(self, lease: bytes, *, session: int) -> LeaseHandle: ...
    def ticket_handle(self, ticket: bytes, *, instance: int) -> LeaseHandle: ...
    def drain(self) -> int:
        """Nothing but what every call does first: end what the handles that died held. Returns how
        many there were.
        """

class LeaseHandle:
    """Ends a lease or ticket when it dies, on whatever thread: a read lease is released, a write
    lease aborted, a ticket closed. Its id waits on a lock-free queue for the table's next call.
    Outlives the table harmlessly.
    """

    def __enter__(self) -> LeaseHandle: ...
    def __exit__(self, *error: object) -> None: ...
    def give_back(self) -> None:
        """Do it now. Any thread. Twice is once."""

    def forget(self) -> None:
        """The lease was ended otherwise; do nothing."""

# --- arena ---------------------------------------------------------------------------------------

class ArenaRefused(ValueError):
    """The arena, or a mapping of it, cannot be had as asked. Says why and what to do."""

class Pages(enum.Enum):
    """What pages an arena got."""

    SMALL = ...
    HUGE_2M = ...
    HUGE_1G = ...
    TRANSPARENT = ...

class Arena:
    """The node's L1 memory: an unnamed file, sealed against a change of size, mapped. One thread."""

    def __init__(self, *, bytes: int) -> None:
        """Create and map `bytes`: a multiple of 4096, not 0, at most the machine's memory.

        Asks for hugetlb pages (backed at once), then transparent huge pages, then small ones.
        Raises ArenaRefused.
        """
    @property
    def bytes(self) -> int: ...
    @property
    def fd(self) -> int:
        """The descriptor to hand to engines; closed on exec; -1 when closed."""
    @property
    def address(self) -> int: ...
    @property
    def pages(self) -> Pages: ...
    @property
    def page_bytes(self) -> int:
        """Size of one of `pages`."""
    @property
    def huge_page_reason(self) -> str:
        """Why they are not hugetlb pages, in a sentence; empty when they are."""
    @property
    def numa_nodes(self) -> int:
        """Memory nodes the arena may lie on."""
    @property
    def numa_reason(self) -> str:
        """How it is spread over them, or why it is not, in a sentence."""
    def start_prefault(self, *, threads: int = 1) -> None:
        """Back the arena with memory from 1 to 64 native threads. Once; ends at close().

        Raises ArenaRefused: another number of threads, a second time, or closed.
        """
    @property
    def prefaulted_bytes(self) -> int: ...
    @property
    def prefault_error(self) -> str:
        """Why prefaulting ended early; empty while it runs and when it is done."""
    def view(self, offset: int, bytes: int) -> memoryview:
        """A writable view of a range, which stays mapped as long as the view lives.

        Raises ArenaRefused: not all inside, closed, or in a forked child.
        """
    def close(self) -> None:
        """Stop prefaulting, close the descriptor, unmap once no view is left. Idempotent."""

class ArenaMapping:
    """A received arena, mapped in an engine's process; a forked child does not have it."""

    def __init__(self, *, fd: int, bytes: int) -> None:
        """Map it; `fd` stays the caller's.

        Raises ArenaRefused: the file has another size, or is not sealed against changing it.
        """
    @property
    def bytes(self) -> int: ...
    @property
    def address(self) -> int: ...
    def view(self, offset: int, bytes: int) -> memoryview:
        """As Arena.view."""
    def start_prefault(self, *, threads: int = 1) -> None:
        """Enter its pages into this process's page table in the background, so that copies do not fault.

        1 to 64 threads, once. Raises ArenaRefused.
        """
    def close(self) -> None:
        """Stop prefaulting; unmap once no view is left. Idempotent."""

# --- catalog: csrc/core/catalog.hpp --------------------------------------------------------------

class CatalogVictims:
    """Objects that were chosen to go, in order, packed: 32-byte keys, u64 sizes, u64 places."""

    @property
    def keys(self) -> bytes: ...
    @property
    def sizes(self) -> bytes: ...
    @property
    def places(self) -> bytes: ...
    @property
    def bytes(self) -> int: ...  # the sum of sizes

class Replayed:
    """What a replay has counted, in keys; `hits` are in the unbroken prefix of their prompt."""

    @property
    def references(self) -> int: ...
    @property
    def hits(self) -> int: ...
    @property
    def refused(self) -> int: ...  # no room even after eviction
    @property
    def evictions(self) -> int: ...

class Catalog:
    """Names of objects with bytes, a place (any u64) and a tenant, ordered by a policy: the ledger of
    an exclusive store. It shares out no memory and refuses nothing for lack of bytes: what is put
    may exceed the capacity, until the caller has taken out what victims() names.

    Keys are packed, 32 bytes each, in prompt order. Belongs to one thread at a time.
    Every call raises BadKeys for keys that are no whole number of keys.
    """

    def __init__(
        self, *, objects_max: int, capacity_bytes: int, policy: Policy, hash_seed: int = 0
    ) -> None:
        """Raises BadArgument for a bound of 0."""

    def put(self, keys: bytes, *, sizes: bytes, places: bytes, tenants: bytes) -> None:
        """New objects, or new facts of old ones, which counts as a touch. Packed u64 bytes (at most
        2**52 each), u64 places, u32 tenants.

        Raises BadArgument when counts differ; TableFull, having changed nothing, when there
        might be more than `objects_max`.
        """

    def has(self, keys: bytes) -> bytes:
        """One byte per key, 0 or 1. Touches nothing."""

    def places(self, keys: bytes) -> bytes:
        """Packed u64; 2**64-1 where there is no object. Touches nothing."""

    def sizes(self, keys: bytes) -> bytes:
        """The same of bytes."""

    def touch(self, keys: bytes) -> int:
        """These were read: the last of a prompt goes first. How many of them are here."""

    def remove(self, keys: bytes) -> int:
        """How many of them were here."""

    def victims(self, *, bytes_wanted: int, count_max: int) -> CatalogVictims:
        """The objects to go next, until they have so many bytes or are so many. They stay until they
        are removed, and are not chosen again unless they are put, touched or spared."""

    def spare(self, keys: bytes) -> int:
        """These were chosen but stay, at their place in the order. How many had been chosen."""

    def replay(
        self, prompts: bytes, lengths: bytes, *, object_bytes: int, tenant: int = 0
    ) -> Replayed:
        """Recorded prompts, of packed u32 `lengths` keys each, ask for their chunks one after the
        other: what is not there is put, after what must go for it. Releases the GIL.

        Raises BadArgument when the lengths do not add up.
        """

    def bytes_of(self, tenant: int) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def capacity_bytes(self) -> int: ...
    @property
    def objects(self) -> int: ...
    @property
    def metadata_bytes(self) -> int:
        """Memory of records, index and policy."""

    def validate(self) -> None:
        """Raises AssertionError naming the first broken invariant. Slow; for tests."""

def optimum_hits(references: bytes, *, capacity: int) -> int:
    """Hits of an all-knowing cache of so many equal objects (Belady, with bypass): no policy has
    more. `references`: packed u32 numbers of objects, dense from 0. Releases the GIL."""

# --- digest: csrc/core/digest.hpp ----------------------------------------------------------------

def crc64(data: Buffer, *, initial: int = 0) -> int:
    """CRC-64/NVME of contiguous bytes, continuing the digest `initial` (0: of nothing).

    "123456789" gives 0xAE8B14860A799888. Releases the GIL.
    """

def crc64_combine(crc_a: int, crc_b: int, bytes_b: int) -> int:
    """The digest of A followed by B, from both digests and the length of B."""

def crc64_join_runs(runs: Buffer, *, run_bytes: int) -> int:
    """The digest of consecutive runs of `run_bytes` each, from their packed u64 digests.

    The run digests of a whole object give the object's digest. Raises ValueError.
    """

def crc64_implementations() -> list[str]:
    """What this CPU can run, slowest first; the last one is used."""

def crc64_of_each(buffers: Sequence[Buffer]) -> list[int]:
    """CRC-64/NVME of each contiguous buffer. Releases the GIL."""

# --- objects: csrc/core/object_header.hpp --------------------------------------------------------

def write_headers(
    target: Buffer,
    *,
    keys: bytes,
    namespaces: bytes,
    tenants: bytes,
    logical_bytes: Sequence[int],
    digests: Sequence[int],
    run_digests: Sequence[bytes],
) -> None:
    """Make the headers of objects without a transform, one after the other, as `stores/header.py`
    makes each.

    `target`: zeros, as many as these headers have bytes. Packed: 32-byte keys and digests of
    namespaces, 16-byte tenants, the u64 run digests of each. Raises ValueError for columns of
    different lengths, and for a target that is not as long; BufferError if it is not writable.
    """

def prove_objects(
    *,
    keys: bytes,
    namespaces: bytes,
    logical_bytes: Sequence[int],
    runs: Sequence[int],
    headers: Sequence[Buffer],
    payloads: Sequence[Buffer],
    payload_bytes: Sequence[int],
) -> list[tuple[int, bytes] | None]:
    """Whether objects that a store has given out are what was asked for.

    Asked for: packed 32-byte keys and digests of namespaces, bytes and runs of each. Read: what is
    in the room of its header and of its payload, and how many bytes of that one there were. Gives
    the digest and the packed u64 digests of the runs of each object that is: a whole header of it,
    without a transform, a whole payload with that digest, runs that agree. None of any other, of
    which `stores/header.py` says why. Raises ValueError for columns of different lengths. Releases
    the GIL.
    """

# --- bitmap: csrc/core/bitmap.hpp ----------------------------------------------------------------

class BitmapMismatch(ValueError):
    """Bitmaps of different sizes, a bit outside, or a window of no chunks."""

class Bitmap:
    """A fixed number of bits, one per chunk of a prompt. Indices outside raise BitmapMismatch."""

    def __init__(self, size: int) -> None: ...
    @staticmethod
    def from_bytes(packed: Buffer, *, size: int) -> Bitmap:
        """Bits packed eight to a byte, lowest first. Raises BitmapMismatch."""
    def to_bytes(self) -> bytes: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> bool: ...
    def set(self, index: int) -> None: ...
    def reset(self, index: int) -> None: ...
    def count(self) -> int:
        """How many bits are one."""
    def prefix(self) -> int:
        """How many ones there are before the first zero."""
    def __and__(self, other: Bitmap) -> Bitmap: ...
    def __or__(self, other: Bitmap) -> Bitmap: ...
    def __eq__(self, other: object) -> bool: ...

class GroupPresence:
    """One layer group's objects along a prompt: bit i when chunk i's is there on every shard."""

    def __init__(self, *, present: Bitmap, rule: Rule, window_chunks: int = 0) -> None:
        """`window_chunks` is at least 1 for Rule.WINDOW, and otherwise not looked at."""

def longest_hit(groups: Sequence[GroupPresence]) -> int:
    """The largest n at which every group's rule holds; 0 for no groups. Raises BitmapMismatch."""

# --- DLPack: csrc/bind/dlpack.cpp ----------------------------------------------------------------

class DlpackTensor:
    """A tensor taken over from a DLPack capsule, which is used up. Keeps the memory alive."""

    def __init__(self, capsule: object) -> None:
        """Raises ValueError for a capsule that is none or was taken before, LayoutRefused for elements
        that are no whole number of bytes."""
    @property
    def address(self) -> int: ...
    @property
    def is_cpu(self) -> bool:
        """Whether the CPU reads it: memory of the host, pinned or not."""
    @property
    def element_bytes(self) -> int: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def strides(self) -> list[int] | None:
        """In elements; None: packed, the last dimension fastest."""

# --- block copy: csrc/copy/copier.hpp ------------------------------------------------------------

class LayoutRefused(ValueError):
    """A declared layout that cannot be what the engine has. Says what is wrong with it."""

class CopyRefused(ValueError):
    """A copy that would read or write what it must not. Nothing has been moved."""

class Direction(enum.Enum):
    """Which way a copy goes."""

    TO_OBJECTS = ...  # a put: paged blocks -> objects
    TO_PAGED = ...  # a get: objects -> paged blocks

class Instructions(enum.Enum):
    """Which instructions may be used. Each includes the ones before it."""

    PORTABLE = ...
    PCLMUL = ...
    VPCLMUL512 = ...

def widest_instructions() -> Instructions:
    """The widest that this CPU has."""

class PagedLayout:
    """Where an engine keeps the KV of one layer group: bases and strides, all in bytes.

    address(layer, kv, block, slot, head) = bases[layer * components + kv] + block * s_block
    + slot * s_slot + head * s_head, and from there `head_bytes` contiguous bytes. Strides of a
    dimension of one are not looked at. `span_bytes`: how much memory there is from each base on.
    An opaque state is one slot and one head of `head_bytes` = the bytes of a block.
    """

    def __init__(
        self,
        *,
        bases: Sequence[int],
        span_bytes: Sequence[int],
        layers: int,
        components: int,
        blocks: int,
        block_slots: int,
        heads: int,
        head_bytes: int,
        s_block: int,
        s_slot: int,
        s_head: int,
        owner: object = None,
    ) -> None:
        """`owner` is kept alive: the tensors that the addresses point into.

        Raises LayoutRefused: a count of 0, a wrong number of bases or the same one twice, blocks,
        slots or heads that overlap, or blocks that reach beyond their span.
        """
    def run_bytes(self, object_blocks: int) -> int:
        """Bytes of one (layer, kv) run of an object of so many blocks."""
    def object_bytes(self, object_blocks: int) -> int: ...
    @property
    def bases(self) -> list[int]: ...
    @property
    def layers(self) -> int: ...
    @property
    def components(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def block_slots(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_bytes(self) -> int: ...
    @property
    def s_block(self) -> int: ...
    @property
    def s_slot(self) -> int: ...
    @property
    def s_head(self) -> int: ...

class Copier:
    """Paged blocks <-> objects, with threads of its own. Any thread may call; calls take turns.

    Objects are laid out [layer][kv][token][head][dim], whatever the engine's layout is.
    """

    def __init__(
        self,
        *,
        threads: int,
        streaming_bytes_min: int = 0,
        instructions: Instructions = ...,
    ) -> None:
        """`threads` counts the caller's. `streaming_bytes_min`: calls that move at least this many
        bytes write past the caches; 0: the size of the last-level cache. `instructions`: the widest
        to use; by default the widest that this CPU has. Raises CopyRefused.
        """
    def copy(
        self,
        *,
        direction: Direction,
        layout: PagedLayout,
        arena: ArenaMapping | Buffer,
        extents: Buffer,
        block_ids: Buffer,
        skip_blocks: int = 0,
        layers: tuple[int, int] | None = None,
    ) -> bytes:
        """Move the blocks of consecutive chunks and digest them in the same pass.

        `extents`: packed records of three u64 (offset, bytes, digest), offsets multiples of 4096,
        bytes exactly those of an object; the digest is not looked at. `block_ids`: 64-bit integers,
        object by object, equally many for each. `skip_blocks`: so many blocks from the first, over
        all objects, are neither read nor written on the paged side, and stay as they are in the
        object; their ids are not looked at. `layers`: (first, last), the last one excluded.

        Returns packed u64: the CRC-64 of every run, [object][layer of the range][kv]. It is always
        that of the whole run as it is in the object when the call returns.

        Raises CopyRefused before a byte moves: an extent or a block id outside, a misaligned or
        overlapping object, one of another size, a block written twice, counts that do not fit, a
        forked child. Raises ValueError for buffers that are not packed integers. Releases the GIL.
        """
    def copy_at(
        self,
        *,
        direction: Direction,
        layout: PagedLayout,
        addresses: Buffer,
        block_ids: Buffer,
        skip_blocks: int = 0,
        layers: tuple[int, int] | None = None,
    ) -> bytes:
        """As copy, with objects anywhere in this process: packed records of two u64 (address,
        bytes), addresses multiples of 64. The caller answers for the memory."""
    def baseline_memcpy(self, *, destination: Buffer, source: Buffer) -> None:
        """What the copy is measured against: the same bytes in one piece, by the same threads."""
    def baseline_streaming(self, *, destination: Buffer, source: Buffer) -> None:
        """As baseline_memcpy, past the caches. Destination and size: multiples of 64 bytes."""
    @property
    def threads(self) -> int: ...
    @property
    def streaming_bytes_min(self) -> int: ...
    @property
    def instructions(self) -> Instructions: ...

# --- io: csrc/io/engine.hpp ----------------------------------------------------------------------
class IoEngineClosed(Exception):
    """The engine was stopped or closed."""

class IoBackend(enum.Enum):
    """Who makes the system calls."""

    AUTO = 0  # io_uring; threads where it is refused
    IO_URING = 1
    THREADS = 2

class Caching(enum.Enum):
    """Whether the page cache takes part."""

    BUFFERED = 0
    DIRECT = 1  # O_DIRECT: buffers are whole blocks of 4096 bytes at multiples of it

class Durability(enum.Enum):
    """What a power cut may take of what was written."""

    NONE = 0  # any of it; never a part of a file under its name, as far as the filesystem orders
    FDATASYNC = 1  # nothing: file and folder are synced before the job is over

def read_file_now(directory: int, name: str, buffers: Sequence[Buffer]) -> int:
    """A whole file into `buffers`, in place: its size, or -errno. Never waits for a disk: -EAGAIN
    when the page cache does not have all of it, or when the system cannot tell; -EFBIG when it is
    larger than the buffers. After an error the buffers may have been written to."""

class IoEngine:
    """Reads and writes of files that nobody waits for in place.

    Belongs to one thread. What is asked for together is a batch of jobs, answered by its id at
    once; `completed` tells what became of all of them when the last is over. Their buffers and
    `hold` live until then, whatever becomes of the caller. Names of files are relative to an open
    folder, which comes first. Raises IoEngineClosed. Jobs beyond jobs_max are not begun: -ENOBUFS.
    """

    def __init__(
        self,
        *,
        depth: int = 64,
        threads: int = 4,
        jobs_max: int = 4096,
        backend: IoBackend = IoBackend.AUTO,
    ) -> None:
        """`depth` jobs under way at a time by io_uring (1 to 4096), or `threads` by threads (1 to
        256); up to `jobs_max` wait. Raises ValueError, and OSError when the backend asked for, not
        AUTO, is refused."""
    @property
    def backend(self) -> IoBackend:
        """IO_URING or THREADS."""
    @property
    def backend_reason(self) -> str:
        """Why AUTO became THREADS; empty otherwise."""
    @property
    def event_fd(self) -> int:
        """Readable while completed() has something to tell."""
    @property
    def jobs(self) -> int:
        """Under way, waiting, or over and not told of."""
    def read(self, fd: int, pieces: Sequence[tuple[int, Sequence[Buffer]]], hold: object) -> int:
        """Each from its offset into all of its buffers, or up to the end of the file: its outcome
        is the bytes read."""
    def write(self, fd: int, pieces: Sequence[tuple[int, Sequence[Buffer]]], hold: object) -> int:
        """Each all of its buffers to its offset, or it failed."""
    def sync(self, fd: int) -> int:
        """fdatasync."""
    def read_files(
        self, files: Sequence[tuple[int, str, Caching, Sequence[Buffer]]], hold: object
    ) -> int:
        """Open, read all of it, close. Its outcome is the file's size; -EFBIG, before a byte is
        read, when the buffers are smaller."""
    def write_files(
        self,
        files: Sequence[tuple[int, str, str, Caching, int, Sequence[Buffer]]],
        durability: Durability,
        hold: object,
    ) -> int:
        """(folder, temporary, name, caching, bytes, buffers): a new file of the first `bytes` of
        `buffers`, written as `temporary` and renamed. Folders of `name` are made when missing. What
        fails leaves nothing under either name, or, before the rename, what was there. No byte
        beyond `bytes` reaches the disk."""
    def remove_files(self, names: Sequence[tuple[int, str]]) -> int: ...
    def stat_files(self, names: Sequence[tuple[int, str]]) -> int:
        """The outcome of each is the size of the file."""
    def completed(self, outcomes_max: int) -> list[tuple[int, list[int]]]:
        """(batch, bytes or -errno of each of its jobs) of batches that are over since the last
        call, until they have so many outcomes; event_fd stays readable while there are more. Never
        waits."""
    def stop(self) -> None:
        """Take and begin no more jobs; cancel those under way, as far as the system can."""
    def close(self) -> None:
        """Stop, and wait for what is under way. What is not told of yet remains for completed()."""

# --- TCP data channels: csrc/io/channel.hpp -------------------------------------------------------

class ChannelEnded(Exception):
    """The connection is over, or there may be no more of them."""

class ChannelNews(enum.IntEnum):
    """What told() says, and of what: (kind, id, of, numbers, reason)."""

    CONNECTED = 0  # connection `id`, which was dialled, works
    ACCEPTED = 1  # who was expected by number `of` came: connection `id`
    ARRIVED = 2  # pieces `numbers` are whole in landing `id`
    SENT = 3  # the memory of send `id` is read no more
    FAILED = 4  # the same, and not all of it was sent
    DRAINED = 5  # landing `id` is closed, and nobody writes there
    LOST = 6  # connection `id` is over for `reason`; its sends and landings were told of before
    REFUSED = 7  # `of` strangers more were not let in, the first of them for `reason`

class _Slot(Protocol):
    @property
    def memory(self) -> memoryview: ...

class _Piece(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def payload(self) -> memoryview: ...

class ChannelEndpoint:
    """TCP data channels of one node. Belongs to one thread; bytes are moved by threads of its own.

    Slots and pieces, and the buffers they lend, live until their landing or send is over, whatever
    becomes of the caller. Tokens and names have 16 random bytes, secrets 32. Raises ChannelEnded.
    """

    def __init__(
        self,
        *,
        threads: int,
        streams: int,
        connections_max: int,
        strangers_max: int,
        hello_within: float,
        peer_timeout: float,
        part_bytes: int,
        receive_bytes: int,
        socket_buffer_bytes: int,
        arrivals_max: int,
        landings_max: int,
        pieces_max: int,
    ) -> None:
        """See csrc/io/channel_options.hpp; times in seconds. Raises ValueError, and OSError when
        the system refuses a thread."""
    @property
    def event_fd(self) -> int:
        """Readable while told() has something to say."""
    def told(self, count_max: int) -> list[tuple[int, int, int, list[int], str]]:
        """What happened since the last call, the oldest first: so many news and numbers. Never
        waits."""
    def listen(self, fd: int) -> None:
        """Accept from this socket, which listens, does not block, and is the endpoint's now."""
    def expect(self, secret: bytes) -> int:
        """The number of this expectation."""
    def forget(self, number: int) -> None: ...
    def dial(self, host: str, port: int, name: bytes, secret: bytes) -> int:
        """The id of a connection on its way to a literal address."""
    def end(self, connection: int, reason: str) -> None: ...
    def counts(self, connection: int) -> tuple[int, int, int, int, int]:
        """Bytes sent and received; pieces sent, received, refused."""
    def release(self, connection: int) -> None:
        """After LOST: nothing is known of it any more."""
    def open_landing(self, connection: int, token: bytes, slots: Sequence[_Slot]) -> int:
        """Its id. Raises ValueError beyond landings_max, BufferError for memory that may not be
        written."""
    def close_landing(self, connection: int, token: bytes) -> bool:
        """True: nobody writes there. Else DRAINED will say so, or has."""
    def send(self, connection: int, token: bytes, pieces: Sequence[_Piece]) -> int:
        """The id of what is on its way; 0: it is sent. At least one piece. Raises ValueError,
        OverflowError for a number out of its range."""
    def cancel_send(self, connection: int, id: int) -> bool:
        """True: none of it is read any more. Else SENT or FAILED will say so, or has."""
    def close(self) -> None:
        """End everything, and wait for the threads. told() has the rest."""

# --- bytes: csrc/copy/fp8.hpp --------------------------------------------------------------------
class CastRefused(ValueError):
    """Sizes that do not belong together."""

class HalfKind(enum.Enum):
    """What an object's 16-bit elements are."""

    BFLOAT16 = 0
    FLOAT16 = 1

def copy_bytes(*, source: Buffer, target: Buffer) -> None:
    """Copy all of source over all of target, which has as many bytes. Releases the GIL.

    Raises ValueError when it has not.
    """

def sync_bytes(memory: Buffer) -> None:
    """Write the pages of a mapped file that `memory` lies in to its device. Raises OSError. Releases the GIL."""

def fp8_cast_bytes(*, elements: int, runs: int) -> int:
    """Bytes of a cast object: two for each run, one for each element."""

def fp8_cast(*, source: Buffer, target: Buffer, runs: int, kind: HalfKind) -> bytes | None:
    """Cast an object of `runs` equal runs to fp8 (E4M3), each run scaled by a power of two.

    Returns the packed digests of its runs as they will be once restored; None if it holds what is not
    finite, or what would be rounded to it: target then means nothing. Raises CastRefused. Releases the GIL.
    """

def fp8_restore(*, source: Buffer, target: Buffer, runs: int, kind: HalfKind) -> None:
    """The object that was cast. Raises CastRefused. Releases the GIL."""

# --- directory: csrc/core/{cuckoo_filter,directory}.hpp ------------------------------------------

class FilterMalformed(ValueError):
    """Bytes that are no part of a filter, or of another one."""

def chunk_names(keys: bytes) -> bytes:
    """Packed names, the first 8 bytes of each key, of packed 32-byte keys. Raises BadKeys."""

class CuckooFilter:
    """An approximate set of chunks by their packed names: at most 2 bytes each, when it was made for
    as many, and about one wrong yes in six hundred. The same calls make the same filter everywhere.
    """

    def __init__(self, buckets: int) -> None:
        """Raises BadArgument unless there are 64 to 2^32 buckets, of 6 bytes."""
    @staticmethod
    def buckets_for(keys: int) -> int:
        """So that so many names, and a quarter more, fit."""
    def change(self, gone: bytes, added: bytes) -> bool:
        """Remove names, which must be in it, then add others. False if that does not fit, which leaves
        it changed half way: make another. Raises BadArgument for what is not packed names."""
    def contains(self, name: int) -> bool: ...
    def copy(self) -> CuckooFilter: ...
    def part(self, number: int) -> bytes:
        """A part of the whole, below `parts`, with a checksum: at most 1 MiB. Raises BadArgument."""
    @property
    def parts(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def keys_max(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def is_sparse(self) -> bool: ...  # a smaller one would do

class Directory:
    """What peers, numbered by the caller from 0 to 65535, have said they have. Belongs to one thread.

    Every call raises BadArgument for another number, or for names that are not packed.
    """

    class Taken(enum.Enum):
        """What a part came to."""

        MORE = 0  # others are missing
        WHOLE = 1  # what the peer had said before is replaced
        NO_ROOM = 2  # the peer is forgotten

    def __init__(self, *, bytes_max: int, seed: int = 0) -> None:
        """`bytes_max` of all filters, whole or coming. `seed`: of the order of equal promises."""
    def begin(self, peer: int) -> None:
        """What comes next of this peer is a new snapshot."""
    def take_part(self, peer: int, part: bytes) -> Directory.Taken:
        """In any order, some of them twice. Raises FilterMalformed: begin anew."""
    def change(self, peer: int, gone: bytes, added: bytes) -> bool:
        """Packed names. False if that does not fit what the peer has said before."""
    def forget(self, peer: int) -> None: ...
    def promises(self, keys: bytes, first: int = 0) -> list[tuple[int, int]]:
        """(peer, chunks): who says yes to the key at `first`, and to how many from there on, the
        longest first. Raises BadKeys."""
    def bytes_of(self, peer: int) -> int: ...
    def keys_of(self, peer: int) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def bytes_max(self) -> int: ...
    def validate(self) -> None:
        """Raises AssertionError."""
