"""Geometries of the table, each registered once: namespaces whose chunks have the same objects share one."""

from __future__ import annotations

from penstock import _native
from penstock.actors.api.errors import TooManyNamespaces
from penstock.actors.api.types import GeometryId, GroupGeometry, HitRule

GEOMETRIES_MAX = 65535  # the table's bound; a geometry stays, since chunks may be of it

_RULES = {
    HitRule.FULL: _native.Rule.FULL,
    HitRule.WINDOW: _native.Rule.WINDOW,
    HitRule.STATE: _native.Rule.STATE,
}


class Geometries:
    """Belongs to the L1 manager."""

    def __init__(self, table: _native.Table, *, geometries_max: int = GEOMETRIES_MAX) -> None:
        self._table = table
        self._geometries_max = geometries_max
        self._numbers: dict[tuple[GroupGeometry, ...], GeometryId] = {}  # len <= geometries_max

    def number(self, groups: tuple[GroupGeometry, ...]) -> GeometryId:
        """The geometry of these groups, registered at first use. Raises TooManyNamespaces, _native.BadArgument."""
        if (known := self._numbers.get(groups)) is not None:
            return known
        if len(self._numbers) >= self._geometries_max:
            raise TooManyNamespaces(
                f"{self._geometries_max} different geometries were declared since the node started, the most a"
                " table can have: restart the node"
            )
        native = [
            _native.Group(
                rule=_RULES[group.rule],
                window_chunks=group.window_chunks,
                shard_bytes=group.shard_bytes,
                shard_runs=group.shard_runs,
            )
            for group in groups
        ]
        number = self._numbers[groups] = GeometryId(self._table.add_geometry(native))
        return number
