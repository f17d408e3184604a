"""Geometries are registered once each, and bounded by the table."""

from __future__ import annotations

import dataclasses

import pytest
from support.declarations import declaration

from penstock import _native
from penstock.actors.api.errors import TooManyNamespaces
from penstock.actors.l1_geometries import Geometries


def test_equal_groups_share_a_number_and_the_bound_is_on_different_ones() -> None:
    table = _native.Table(
        arena_bytes=4096, objects_max=64, policy=_native.Policy.LRU, quarantine_bytes_max=4096
    )
    geometries = Geometries(table, geometries_max=2)
    one, two = declaration().groups, declaration(shard_bytes=1).groups
    assert [geometries.number(groups) for groups in (one, two, one, two)] == [0, 1, 0, 1]
    with pytest.raises(TooManyNamespaces, match="2 different geometries"):
        geometries.number(declaration(shard_bytes=2).groups)
    assert geometries.number(declaration().groups) == 0


def test_groups_that_the_table_refuses_are_not_kept() -> None:
    table = _native.Table(
        arena_bytes=4096, objects_max=64, policy=_native.Policy.LRU, quarantine_bytes_max=4096
    )
    geometries = Geometries(table)
    empty = dataclasses.replace(declaration().groups[0], shard_bytes=(0,), shard_runs=(1,))
    for _ in range(2):
        with pytest.raises(_native.BadArgument):
            geometries.number((empty,))
    assert geometries.number(declaration().groups) == 0
