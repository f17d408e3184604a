"""Files that a command writes its numbers to."""

from __future__ import annotations

from pathlib import Path

from penstock.runtime.errors import CallerError


def check_writable(*paths: Path | None) -> None:
    """Before what takes long, so that nothing is lost for want of a directory. Raises CallerError."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise CallerError(f"{path} cannot be written: there is no directory {path.parent}")
