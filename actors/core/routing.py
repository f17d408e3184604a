"""Which of several folders or devices of one store an object is kept on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _first(_key: bytes, _device: int) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Routing:
    """`place_of`: from an object's key and device to the number of a place, below `places`. Unless `is_by_key`, any key
    will do: whoever has yet to make it need not."""

    places: int = 1
    place_of: Callable[[bytes, int], int] = _first
    is_by_key: bool = False

    @staticmethod
    def by_key(places: int) -> Routing:
        """Evenly; by other digits of the key than those that name the folder of the object."""
        return Routing(
            places,
            lambda key, _: int.from_bytes(key[8:16], "little") % places,
            is_by_key=places > 1,
        )

    @staticmethod
    def by_device(places: int) -> Routing:
        return Routing(places, lambda _, device: device % places)

    @staticmethod
    def by_rank(ranks: Sequence[int]) -> Routing:
        """`ranks`: whose place each is. Of a rank that has none: the first."""
        numbers = {rank: number for number, rank in enumerate(ranks)}
        return Routing(len(ranks), lambda _, device: numbers.get(device, 0))


ONE_PLACE = Routing()
