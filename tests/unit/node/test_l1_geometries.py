"""Geometries are registered once each, and bounded by the table."""

from __future__ import annotations

import dataclasses

import pytest
from support.declarations import declaration

from penstock import _native
from penstock.actors.api.errors import TooManyNamespaces
from penstock.actors.api.types import GroupGeometry, HitRule, Slot
from penstock.actors.l1_geometries import Geometries

NAMESPACE = b"n" * 32


def test_equal_groups_share_a_number_and_the_bound_is_on_different_ones() -> None:
    table = _native.Table(
        arena_bytes=4096, objects_max=64, policy=_native.Policy.LRU, quarantine_bytes_max=4096
    )
    geometries = Geometries(table, geometries_max=2)
    one, two = declaration().groups, declaration(shard_bytes=1).groups
    assert [geometries.number(groups, NAMESPACE) for groups in (one, two, one, two)] == [0, 1, 0, 1]
    with pytest.raises(TooManyNamespaces, match="2 different geometries"):
        geometries.number(declaration(shard_bytes=2).groups, NAMESPACE)
    assert geometries.number(declaration().groups, NAMESPACE) == 0


def test_groups_that_the_table_refuses_are_not_kept() -> None:
    table = _native.Table(
        arena_bytes=4096, objects_max=64, policy=_native.Policy.LRU, quarantine_bytes_max=4096
    )
    geometries = Geometries(table)
    empty = dataclasses.replace(declaration().groups[0], shard_bytes=(0,), shard_runs=(1,))
    for _ in range(2):
        with pytest.raises(_native.BadArgument):
            geometries.number((empty,), NAMESPACE)
    assert geometries.number(declaration().groups, NAMESPACE) == 0


def test_a_number_is_of_one_namespace_and_its_shape_tells_the_objects_of_a_chunk() -> None:
    """A21: equal groups of two namespaces are two geometries: what one wrote is absent to the other."""
    table = _native.Table(
        arena_bytes=4096, objects_max=64, policy=_native.Policy.LRU, quarantine_bytes_max=4096
    )
    geometries = Geometries(table)
    full = GroupGeometry(HitRule.FULL, 0, (10, 20), (1, 2))
    window = GroupGeometry(HitRule.WINDOW, 3, (30,), (4,))
    first = geometries.number((full, window), NAMESPACE)
    assert geometries.number((full, window), b"m" * 32) != first
    shape = geometries.shape(first)
    assert (shape.geometry, shape.namespace) == (first, NAMESPACE)
    assert shape.slots == (Slot(0, 0, 10, 1), Slot(0, 1, 20, 2), Slot(1, 0, 30, 4))


def test_a_namespace_finds_its_own_shapes() -> None:
    table = _native.Table(
        arena_bytes=4096, objects_max=64, policy=_native.Policy.LRU, quarantine_bytes_max=4096
    )
    geometries = Geometries(table)
    numbers = [
        geometries.number(declaration(shard_bytes=size).groups, NAMESPACE) for size in (1, 2)
    ]
    geometries.number(declaration().groups, b"m" * 32)
    assert [shape.geometry for shape in geometries.shapes_of(NAMESPACE)] == numbers
    assert geometries.shapes_of(b"x" * 32) == ()
