"""An option whose value is one of a few, refused with all of them."""

from __future__ import annotations

import argparse
import enum
from typing import TypeVar

E = TypeVar("E", bound=enum.Enum)


def add_choice(
    parser: argparse.ArgumentParser, flag: str, kind: type[E], default: E, help_text: str
) -> None:
    """An option of the values of `kind`."""
    values = [member.value for member in kind]

    def chosen(text: str) -> E:
        try:
            return kind(text)
        except ValueError:
            problem = f"{text!r} is not one of {', '.join(values)}"
            raise argparse.ArgumentTypeError(problem) from None

    parser.add_argument(
        flag,
        metavar="NAME",
        type=chosen,
        default=default,
        help=f"{help_text}: {'|'.join(values)} ({default.value})",
    )
