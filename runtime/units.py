"""Sizes and durations as people write them: `4GiB`, `512MiB`, `64 KiB`, `250ms`, `2s`, `1.5m`; or
plain numbers.

Both types know how to read themselves from a configuration value (`from_config`), which is all that
`penstock.runtime.config` asks of a type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_BYTES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_BYTES |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"us": Fraction(1, 10**6), "ms": Fraction(1, 1000)}
_SECONDS |= {"s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


class ByteSize(int):
    """A number of bytes, 0 or more."""

    @classmethod
    def from_config(cls, value: object) -> ByteSize:
        """Read an int (bytes) or text with a unit. Raises ValueError or TypeError."""
        if isinstance(value, str):
            exact = _quantity(value, _BYTES, "a size such as 4GiB, 512MiB or 1000000")
        elif isinstance(value, int) and not isinstance(value, bool):
            exact = Fraction(value)
        else:
            raise TypeError(f"{value!r} is no size: write it as 4GiB, 512MiB or 1000000")
        if exact.denominator != 1 or exact < 0:
            raise ValueError(f"{value!r} is not a whole number of bytes, 0 or more")
        return cls(exact)

    def __str__(self) -> str:
        """With the largest unit that divides it: `4GiB`."""
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{int(self) // _BYTES[unit]}{unit}"
        return f"{int(self)}"

    __repr__ = __str__


class Seconds(float):
    """A duration in seconds, finite, 0 or more."""

    @classmethod
    def from_config(cls, value: object) -> Seconds:
        """Read a number (seconds) or text with a unit.

        Raises ValueError or TypeError.
        """
        if isinstance(value, str):
            return cls(_quantity(value, _SECONDS, "a duration such as 2s, 250ms or 0.5"))
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{value!r} is no duration: write it as 2s, 250ms or 0.5")
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{value!r} is no duration: it must be finite, 0 or more")
        return cls(value)


def _quantity(text: str, units: Mapping[str, int | Fraction], wanted: str) -> Fraction:
    """The number in `text` times its unit; without a unit, the number. Exact."""
    match = _QUANTITY.fullmatch(text)
    if match is None or (match[2] and match[2] not in units):
        raise ValueError(f"{text!r} is not {wanted} (units: {', '.join(units)})")
    return Fraction(match[1]) * (units[match[2]] if match[2] else 1)
