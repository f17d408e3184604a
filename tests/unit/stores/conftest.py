"""What tests of several stores need of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import mounts

from penstock.runtime.units import MIB


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    """A block device over a file."""
    with mounts.loop_device(tmp_path, size_bytes=16 * MIB) as device:
        yield device
