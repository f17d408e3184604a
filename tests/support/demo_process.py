"""`penstock demo` in a process of its own, and what it must not leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

TINY = ("--model-size=1m", "--threads=1", "--document-tokens=900", "--answer-tokens=4")


def demo(directory: Path, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the demo by `prefix`; its processes are known by `directory`, where their sockets and logs go."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "penstock.actors.cli.main", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(directory), "COLUMNS": "80"},
    )


def processes_of(directory: Path) -> dict[int, str]:
    """The node and the workers that a demo in `directory` has running: command lines by process id."""
    return {pid: words for pid, words in _commands() if str(directory) in words}


def _commands() -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended between the two looks


def finish(process: subprocess.Popen[str], directory: Path) -> tuple[int, str, str]:
    """Wait for the end; nothing the demo started may outlive it, and no file it made for itself."""
    out, err = process.communicate(timeout=15)
    assert processes_of(directory) == {}
    assert list(directory.glob("penstock-demo-*")) == []
    return process.returncode, out, err
