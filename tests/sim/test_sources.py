"""No code of the product asks for the time or for randomness in a way that a simulation would not notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = sorted(
    path for part in ("actors", "runtime") for path in (ROOT / part).rglob("*.py") if path.is_file()
)
REPLACED_IN = {  # a name taken from there is bound before a simulation replaces it
    "os": {"fork", "getrandom", "posix_spawn", "urandom"},
    "random": {"random", "randint", "randrange", "choice", "choices", "sample", "shuffle"},
    "time": {
        "asctime", "clock_gettime", "clock_gettime_ns", "ctime", "gmtime", "localtime", "monotonic",
        "monotonic_ns", "perf_counter", "perf_counter_ns", "strftime", "time", "time_ns",
    },
    "_thread": {"start_new_thread"},
}  # fmt: skip
NOT_REPLACED = {
    "datetime": {"now", "today", "utcnow"},
    "date": {"today"},
    "uuid": {"uuid1"},
    "ssl": {"RAND_bytes"},
}


def _missed(source: str) -> Iterator[str]:
    """What of `source` a simulation would miss."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            hidden = REPLACED_IN.get(node.module or "", set()) | (
                NOT_REPLACED.get(node.module or "", set())
            )
            for name in node.names:
                if name.name in hidden:
                    yield f"line {node.lineno}: from {node.module} import {name.name}"
        elif isinstance(node, ast.Attribute):
            owner = node.value
            named = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if node.attr in NOT_REPLACED.get(named, ()):
                yield f"line {node.lineno}: {named}.{node.attr}"


def test_nothing_in_the_product_is_missed_by_a_simulation() -> None:
    """Seen to fail: the client of object stores took `monotonic` by its name."""
    assert len(SIMULATED) > 100
    missed = [
        f"{path.relative_to(ROOT)}, {what}"
        for path in SIMULATED
        for what in _missed(path.read_text())
    ]
    assert not missed, "take it from its module, or from the loop: " + "; ".join(missed)


@pytest.mark.parametrize(
    "source",
    [
        "from time import monotonic",
        "from os import path, urandom as noise",
        "from uuid import uuid1",
        "import datetime\nat = datetime.datetime.now(datetime.UTC)",
        "from datetime import datetime\nread = datetime.utcnow",
        "from datetime import date\nat = date.today()",
        "import ssl\nnoise = ssl.RAND_bytes(8)",
    ],
)
def test_what_a_simulation_would_miss_is_found(source: str) -> None:
    assert len(list(_missed(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import time\nat = time.monotonic()",
        "from time import sleep",
        "from random import Random",
        "from datetime import UTC, datetime\nat = datetime.fromtimestamp(time.time(), UTC)",
        "clock.now()",
    ],
)
def test_what_a_simulation_replaces_may_be_used(source: str) -> None:
    assert not list(_missed(source))
