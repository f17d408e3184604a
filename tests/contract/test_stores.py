"""One suite over all stores: alone, and with the actor around them. A store joins by a file in `contract/stores/`.

Such a file has `SUBJECTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Subject]]]`, by name; each gets an
empty directory of its own. One that needs what is not here calls `pytest.skip` and says what is missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from penstock.actors.stores.checking import CHECKS, Check, Subject, returns_what_was_saved

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def subjects() -> dict[str, Make]:
    found: dict[str, Make] = {}
    for path in sorted((Path(__file__).parent / "stores").glob("[a-z]*.py")):
        found |= importlib.import_module(f"contract.stores.{path.stem}").SUBJECTS
    return found


def _marked(check: Check) -> Any:
    # It gives 32 MiB of its own back to the system at once, which no store does.
    is_large = check is returns_what_was_saved
    return pytest.param(check, marks=pytest.mark.loop_step_ms(30) if is_large else ())


@pytest.mark.parametrize("check", [*map(_marked, CHECKS)], ids=[one.__name__ for one in CHECKS])
@pytest.mark.parametrize("make", [*subjects().values()], ids=[*subjects()])
def test_a_store(make: Make, check: Check, tmp_path: Path) -> None:
    """A2, A6, A11, C2: what every store must do; see the check's own words."""

    async def run() -> None:
        async with make(tmp_path) as subject:
            await check(subject)

    anyio.run(run)
