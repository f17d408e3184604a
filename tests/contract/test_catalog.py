"""The native catalog against its dumb twin, under every policy: any calls, in any order."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support.catalog_twin import (
    NOWHERE,
    CatalogTwin,
    keys,
    numbers,
    optimum_twin,
    u32s,
    u64s,
)

from penstock._native import (
    BadArgument,
    BadKeys,
    Catalog,
    Policy,
    TableFull,
    optimum_hits,
)

OBJECTS_MAX = 12
CAPACITY_BYTES = 64 * 1024
batches = st.lists(st.integers(0, 19), max_size=6)
items = st.tuples(st.integers(0, 20_000), st.integers(0, 2**64 - 2), st.integers(0, 2))


class CatalogMachine(RuleBasedStateMachine):
    policy = Policy.LRU

    def __init__(self) -> None:
        super().__init__()
        self.twin = CatalogTwin()
        self.catalog = Catalog(
            objects_max=OBJECTS_MAX, capacity_bytes=CAPACITY_BYTES, policy=self.policy, hash_seed=3
        )

    @rule(batch=st.lists(st.tuples(st.integers(0, 19), items), max_size=6))
    def put(self, batch: list[tuple[int, tuple[int, int, int]]]) -> None:
        those = [number for number, _ in batch]
        sizes, places, tenants = ([one[i] for _, one in batch] for i in range(3))
        absent = sum(one not in self.twin.items for one in those)  # repeated ones count each time
        packed = {"sizes": u64s(sizes), "places": u64s(places), "tenants": u32s(tenants)}
        if absent + len(self.twin.items) > OBJECTS_MAX:
            with pytest.raises(TableFull):
                self.catalog.put(keys(those), **packed)
            return
        self.catalog.put(keys(those), **packed)
        for number, item in batch:
            self.twin.put(number, item)

    @rule(those=batches)
    def touch(self, those: list[int]) -> None:
        assert self.catalog.touch(keys(those)) == self.twin.touch(those)

    @rule(those=batches)
    def remove(self, those: list[int]) -> None:
        assert self.catalog.remove(keys(those)) == self.twin.remove(those)

    @rule(those=batches)
    def spare(self, those: list[int]) -> None:
        assert self.catalog.spare(keys(those)) == self.twin.spare(those)

    @rule(bytes_wanted=st.integers(0, 60_000), count_max=st.integers(0, 8))
    def choose(self, bytes_wanted: int, count_max: int) -> None:
        victims = self.catalog.victims(bytes_wanted=bytes_wanted, count_max=count_max)
        those = numbers(victims.keys, 20)
        assert len(set(those)) == len(those) <= count_max
        assert self.twin.items.keys() >= set(those)
        assert not self.twin.chosen & set(those)
        sizes = [self.twin.items[one][0] for one in those]
        assert victims.sizes == u64s(sizes)
        assert victims.places == u64s([self.twin.items[one][1] for one in those])
        assert victims.bytes == sum(sizes)
        assert not those or sum(sizes[:-1]) < bytes_wanted  # not one more than wanted
        self.twin.chosen |= set(those)
        enough = sum(sizes) >= bytes_wanted or len(those) == count_max
        assert enough or self.twin.chosen == self.twin.items.keys()

    @invariant()
    def agree(self) -> None:
        self.catalog.validate()
        twin = self.twin
        everything = keys(range(20))
        assert self.catalog.has(everything) == bytes(one in twin.items for one in range(20))
        absent = (NOWHERE, NOWHERE, 0)
        expected = [twin.items.get(one, absent) for one in range(20)]
        assert self.catalog.sizes(everything) == u64s([one[0] for one in expected])
        assert self.catalog.places(everything) == u64s([one[1] for one in expected])
        assert (self.catalog.used_bytes, self.catalog.objects) == (
            twin.used_bytes,
            len(twin.items),
        )
        assert [*map(self.catalog.bytes_of, range(3))] == [*map(twin.bytes_of, range(3))]


@pytest.mark.parametrize("policy", Policy, ids=str)
def test_the_catalog_agrees_with_its_twin(policy: Policy) -> None:
    machine = type(f"Machine{policy.name}", (CatalogMachine,), {"policy": policy})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@given(references=st.lists(st.integers(0, 9), max_size=60), capacity=st.integers(0, 10))
@settings(deadline=None)
def test_the_optimum_is_what_looking_ahead_hits(references: list[int], capacity: int) -> None:
    seen = optimum_hits(u32s(references), capacity=capacity)
    assert seen == optimum_twin(references, capacity)


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    with pytest.raises(BadArgument, match="objects_max from 1"):
        Catalog(objects_max=0, capacity_bytes=1, policy=Policy.LRU)
    catalog = Catalog(objects_max=2, capacity_bytes=1, policy=Policy.LRU)
    with pytest.raises(BadKeys, match="a multiple of 32 bytes"):
        catalog.has(b"short")
    with pytest.raises(BadArgument, match="as many as the keys"):
        catalog.put(keys([1]), sizes=b"", places=u64s([1]), tenants=u32s([1]))
    with pytest.raises(BadArgument, match="packed words of 8"):
        catalog.put(keys([1]), sizes=b"123", places=u64s([1]), tenants=u32s([1]))
    with pytest.raises(BadArgument, match=r"at most 2\^52"):
        catalog.put(keys([1]), sizes=u64s([2**53]), places=u64s([1]), tenants=u32s([1]))
    with pytest.raises(BadArgument, match="lengths add up to 2"):
        catalog.replay(keys([1]), struct.pack("<I", 2), object_bytes=1)
    with pytest.raises(BadArgument, match="0 bytes"):
        catalog.replay(keys([1]), struct.pack("<I", 1), object_bytes=0)
    assert (catalog.objects, catalog.used_bytes) == (0, 0)
    catalog.validate()
