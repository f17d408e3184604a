"""The books of a store that is ours alone: what it holds, to the byte, and what may still be put on it.

    reserve -> PENDING -settle(saved)-> in the catalog -removed-> gone
                  '----settle(not)----> gone

Bytes are those of the medium, headers and padding included. What is pending counts as taken, since it may be on the
medium already; so does what was chosen to go, until it is gone there.

A medium may be several places, each with a capacity of its own: then each has a shelf in the books, and room is made
where it is short.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

from penstock.actors.api.errors import TooManyTenants
from penstock.actors.api.types import KEY_BYTES, TenantId
from penstock.actors.core.catalog import Catalog
from penstock.actors.core.quota import Tenants

PUT_MAX = 1024  # records in one call: a catalog has room for so many beyond objects_max
NOBODY = 2**32 - 1  # owner of what was found and cannot be told apart any more


@dataclass(slots=True)
class Shelf:
    """What is known of one place of the medium, or of all of it."""

    catalog: Catalog
    capacity_bytes: int  # >= 1
    pending_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        return self.catalog.used_bytes + self.pending_bytes


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    objects_max: int
    tenants_max: int
    tenant_bytes_max: int  # of a tenant without a quota of its own; 0: none
    quotas: Mapping[bytes, int]  # by tenant digest


class Record(NamedTuple):
    """One object on the medium."""

    key: bytes
    device: int
    size_bytes: int
    tenant: bytes | None  # None: not known, and so nobody's


class Shortfall(NamedTuple):
    """What has to go for something else."""

    bytes: int  # 0: nothing
    place: int  # from where


class _Owned(NamedTuple):
    """As `Record`, the tenant by number."""

    key: bytes
    device: int
    size_bytes: int
    tenant: int


class StoreLedger:
    def __init__(
        self,
        shelves: Sequence[Shelf],
        limits: LedgerLimits,
        place_of: Callable[[bytes, int], int] = lambda _key, _device: 0,
    ) -> None:
        """`place_of`: on which of `shelves` an object of this key and device is."""
        self._shelves = tuple(shelves)
        self._limits = limits
        self._place_of = place_of
        self._pending: dict[bytes, _Owned] = {}
        self._pending_of: Counter[int] = Counter()  # bytes by tenant
        self._left: list[set[bytes]] = []  # of those who count what is there, since each began
        self._tenants = Tenants(
            tenants_max=limits.tenants_max,
            default_bytes_max=limits.tenant_bytes_max,
            bytes_max=limits.quotas,
            bytes_of=self._bytes_of,
        )

    @property
    def capacity_bytes(self) -> int:
        return sum(shelf.capacity_bytes for shelf in self._shelves)

    @property
    def places(self) -> range:
        return range(len(self._shelves))

    def place_of(self, key: bytes, device: int) -> int:
        """Where such an object is, or would be."""
        return self._place_of(key, device) if len(self._shelves) > 1 else 0

    def resize(self, capacity_bytes: int) -> None:
        """The medium, which is one, became larger or smaller: what is over has to be evicted by the caller."""
        (shelf,) = self._shelves
        shelf.capacity_bytes = capacity_bytes

    @property
    def used_bytes(self) -> int:
        return sum(shelf.used_bytes for shelf in self._shelves)

    @property
    def objects(self) -> int:
        """Of those that are whole."""
        return sum(shelf.catalog.objects for shelf in self._shelves)

    def has(self, packed_keys: bytes) -> bytes:
        """One byte per key."""
        if not packed_keys:
            return b""
        first, *others = self._shelves
        found = first.catalog.has(packed_keys)
        for shelf in others:
            found = _either(found, shelf.catalog.has(packed_keys))
        return found

    def touch(self, packed_keys: bytes) -> None:
        """Used, in prompt order."""
        if packed_keys:
            for shelf in self._shelves:
                shelf.catalog.touch(packed_keys)

    @contextmanager
    def counting(self) -> Iterator[set[bytes]]:
        """All keys that leave the medium while the body runs: what it was told of them may be older than that."""
        left: set[bytes] = set()
        self._left.append(left)
        try:
            yield left
        finally:
            at = next(at for at, one in enumerate(self._left) if one is left)
            del self._left[at]

    def found(self, records: Collection[Record]) -> list[Record]:
        """These are on the medium. Those that are in the books already stay there as they are.

        Returns those there are too many of to know: they have to go."""
        present = self.has(b"".join(record.key for record in records))
        new = {
            record.key: record
            for record, is_known in zip(records, present, strict=True)
            if not is_known and record.key not in self._pending
        }
        room = max(0, self._limits.objects_max - self.objects - len(self._pending))
        known = [*islice(new.values(), room)]
        numbers = {tenant: self._number(tenant) for tenant in {one.tenant for one in known}}
        self._put([_Owned(*one[:3], numbers[one.tenant]) for one in known])
        return [*islice(new.values(), room, None)]

    def refusal(self, tenant: bytes, size_bytes: int, place: int = 0) -> str:
        """Why so many bytes of this tenant cannot be saved there, whatever is evicted; empty: they can."""
        capacity_bytes = self._shelves[place].capacity_bytes
        if size_bytes > capacity_bytes:
            return f"{size_bytes} bytes, the store has {capacity_bytes}"
        try:
            account = self._tenants.account(tenant)
        except TooManyTenants:
            return f"{self._limits.tenants_max} tenants have objects here: raise tenants_max"
        held = self._bytes_of(account.id)
        if account.bytes_max and held + size_bytes > account.bytes_max:
            return f"the tenant has {held} of {account.bytes_max} bytes, {size_bytes} more are over"
        return ""

    def shortfall(self, size_bytes: int, objects: int, place: int = 0) -> Shortfall:
        """What has to go before so much more fits there."""
        shelf = self._shelves[place]
        short = shelf.used_bytes + size_bytes - shelf.capacity_bytes
        if short > 0:
            return Shortfall(short, place)
        if self.objects + len(self._pending) + objects > self._limits.objects_max:
            return Shortfall(1, max(self.places, key=lambda at: self._shelves[at].catalog.objects))
        return Shortfall(0, place)

    def reserve(self, records: Sequence[Record]) -> None:
        """Of one tenant and one place. The caller has made sure of room for all of them, and that nobody else changes
        their keys."""
        first = records[0]
        assert first.tenant is not None
        place = self.place_of(first.key, first.device)
        size_bytes = sum(one.size_bytes for one in records)
        assert self.refusal(first.tenant, size_bytes, place) == ""
        number = self._number(first.tenant)
        owned = {one.key: _Owned(one.key, one.device, one.size_bytes, number) for one in records}
        assert len(owned) == len(records)
        assert self._pending.keys().isdisjoint(owned)
        self._pending |= owned
        shelf = self._shelves[place]
        shelf.pending_bytes += size_bytes
        self._pending_of[number] += size_bytes
        assert shelf.used_bytes <= shelf.capacity_bytes, self

    def settle(
        self,
        saved: Iterable[bytes],
        not_saved: Iterable[bytes],
        taken: Mapping[bytes, int] = MappingProxyType({}),
    ) -> None:
        """What became of reserved objects. `taken`: bytes of those that took fewer than reserved."""
        kept = self._take(saved)
        if taken:
            kept = [one._replace(size_bytes=taken.get(one.key, one.size_bytes)) for one in kept]
        gone = self._take(not_saved)
        self._put(kept)
        self._tell_counting([one.key for one in gone])

    def choose(
        self, bytes_wanted: int, count_max: int, *, without: Collection[bytes], place: int = 0
    ) -> dict[bytes, int]:
        """Objects to go next from there, but none of `without`, and their devices; nobody else chooses them until they
        are removed or spared."""
        catalog = self._shelves[place].catalog
        chosen: dict[bytes, int] = {}
        passed_over: list[bytes] = []
        freed = 0
        while freed < bytes_wanted and len(chosen) < count_max:
            batch = catalog.victims(
                bytes_wanted=bytes_wanted - freed, count_max=count_max - len(chosen)
            )
            keys = _split(batch.keys)
            if not keys:
                break
            devices = struct.unpack(f"<{len(keys)}Q", batch.places)
            free = {key: at for key, at in zip(keys, devices, strict=True) if key not in without}
            chosen |= free
            passed_over += [key for key in keys if key not in free]
            # A batch with some that are passed over counts for nothing: at worst a few too many are chosen.
            freed += batch.bytes if len(free) == len(keys) else 0
        self.spare(passed_over)
        return chosen

    def spare(self, keys: Collection[bytes]) -> None:
        """They were chosen, and stay."""
        if keys:
            for shelf in self._shelves:
                shelf.catalog.spare(b"".join(keys))

    def removed(self, keys: Collection[bytes]) -> int:
        """They are not on the medium any more. How many had been known."""
        self._tell_counting(keys)
        packed = b"".join(keys)
        return sum(shelf.catalog.remove(packed) for shelf in self._shelves) if packed else 0

    def validate(self) -> None:
        """Raises AssertionError if an invariant does not hold."""
        pending_bytes = Counter[int]()
        for one in self._pending.values():
            pending_bytes[self.place_of(one.key, one.device)] += one.size_bytes
        for place in self.places:
            assert self._shelves[place].pending_bytes == pending_bytes[place]
        assert pending_bytes.total() == sum(self._pending_of.values())
        assert not any(self.has(b"".join(self._pending)))

    def _tell_counting(self, gone: Collection[bytes]) -> None:
        for left in self._left:
            left.update(gone)

    def _take(self, keys: Iterable[bytes]) -> list[_Owned]:
        """Out of what is pending."""
        owned = [self._pending.pop(key) for key in keys]
        sums = Counter[tuple[int, int]]()
        for one in owned:
            sums[one.tenant, self.place_of(one.key, one.device)] += one.size_bytes
        for (tenant, place), size_bytes in sums.items():
            self._shelves[place].pending_bytes -= size_bytes
            self._pending_of[tenant] -= size_bytes
            if not self._pending_of[tenant]:
                del self._pending_of[tenant]
        return owned

    def _put(self, records: Sequence[_Owned]) -> None:
        if len(self._shelves) == 1:
            _put_in(self._shelves[0].catalog, records)
            return
        by_place: dict[int, list[_Owned]] = {}
        for one in records:
            by_place.setdefault(self.place_of(one.key, one.device), []).append(one)
        for place, some in by_place.items():
            _put_in(self._shelves[place].catalog, some)

    def _number(self, tenant: bytes | None) -> int:
        if tenant is None:
            return NOBODY
        try:
            return int(self._tenants.account(tenant).id)
        except TooManyTenants:
            return NOBODY

    def _bytes_of(self, number: TenantId) -> int:
        kept = sum(shelf.catalog.bytes_of(number) for shelf in self._shelves)
        return kept + self._pending_of[number]


def _put_in(catalog: Catalog, records: Sequence[_Owned]) -> None:
    for start in range(0, len(records), PUT_MAX):
        batch = records[start : start + PUT_MAX]
        keys, devices, sizes, tenants = zip(*batch, strict=True)
        catalog.put(
            b"".join(keys),
            sizes=struct.pack(f"<{len(batch)}Q", *sizes),
            places=struct.pack(f"<{len(batch)}Q", *devices),
            tenants=struct.pack(f"<{len(batch)}I", *tenants),
        )


def _either(one: bytes, other: bytes) -> bytes:
    both = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return both.to_bytes(len(one), "little")


def _split(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
