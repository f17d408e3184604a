"""Small filesystems of a test's own, where the machine lets one mount."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(kind: str, at: Path, *, options: str = "") -> Iterator[Path]:
    """A new filesystem without a disk (`tmpfs`, `ramfs`) at `at`. Skips the test where that is not allowed."""
    at.mkdir()
    flags = ["-o", options] if options else []
    made = _run("mount", "-t", kind, *flags, "none", str(at))
    if made.returncode:
        pytest.skip(f"mount -t {kind} is refused here ({made.stderr.strip()}): run the test as root")
    try:
        yield at
    finally:
        undone = _run("umount", str(at))
        assert not undone.returncode, undone.stderr


def remount(at: Path, *, options: str) -> None:
    """Change what a mount allows, as `ro`."""
    done = _run("mount", "-o", f"remount,{options}", str(at))
    assert not done.returncode, done.stderr


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
