"""Geometries of the table: one for every namespace and its groups, registered once."""

from __future__ import annotations

from collections.abc import Sequence

from penstock import _native
from penstock.actors.api.errors import TooManyNamespaces
from penstock.actors.api.types import GeometryId, GroupGeometry, HitRule, Shape

GEOMETRIES_MAX = 65535  # the table's bound; a geometry stays, since chunks may be of it

_DIGITS = b"01".ljust(256, b"?")
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
        self._numbers: dict[tuple[bytes, tuple[GroupGeometry, ...]], GeometryId] = {}
        self._shapes: list[Shape] = []  # by number; len == len(_numbers) <= geometries_max
        self._of: dict[bytes, tuple[Shape, ...]] = {}  # the same by their namespaces

    def shape(self, number: int) -> Shape:
        return self._shapes[number]

    def shapes_of(self, namespace: bytes) -> tuple[Shape, ...]:
        """All that were declared for this namespace."""
        return self._of.get(namespace, ())

    def number(self, groups: tuple[GroupGeometry, ...], namespace: bytes) -> GeometryId:
        """The geometry of these groups, registered at first use. Raises TooManyNamespaces, _native.BadArgument."""
        if (known := self._numbers.get((namespace, groups))) is not None:
            return known
        if len(self._shapes) >= self._geometries_max:
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
        number = GeometryId(self._table.add_geometry(native))
        self._numbers[namespace, groups] = number
        shape = Shape.of(number, namespace, groups)
        self._shapes.append(shape)
        self._of[namespace] = (*self._of.get(namespace, ()), shape)
        return number


def longest_hit(columns: Sequence[tuple[GroupGeometry, bytes]]) -> int:
    """The hit rule over columns of one byte a chunk, 1 where all shards of the group are there."""
    return _native.longest_hit(
        [
            _native.GroupPresence(
                present=_native.Bitmap.from_bytes(_bits(column), size=len(column)),
                rule=_RULES[group.rule],
                window_chunks=group.window_chunks,
            )
            for group, column in columns
        ]
    )


def _bits(column: bytes) -> bytes:
    """Bytes of 0 and 1 as bits, eight to a byte, lowest first."""
    if not column:
        return b""
    digits = column[::-1].translate(_DIGITS)
    return int(digits, 2).to_bytes(-(-len(column) // 8), "little")
