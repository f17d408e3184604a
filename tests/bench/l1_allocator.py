"""The extent allocator's rows of the l1 benchmark: a native program, compiled here and run once a
round, since one call takes less time than Python needs to make it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("tests/csrc/bench_extent_allocator.cpp", "csrc/core/extent_allocator.cpp")
FLAGS = ("-std=c++20", "-O3", "-DNDEBUG", "-Icsrc")

Rows = dict[str, float]


@contextmanager
def allocator_program() -> Iterator[Path]:
    """The compiled benchmark, as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        program = Path(directory) / "bench_extent_allocator"
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        command = [*compiler, *FLAGS, *SOURCES, "-o", str(program)]
        subprocess.run(command, cwd=ROOT, check=True)
        yield program


def run_allocator(program: Path) -> Rows:
    """One round: every row of it."""
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    rows: Rows = json.loads(done.stdout)
    return rows
