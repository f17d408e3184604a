"""Files of any filesystem, beyond what all stores must do: what is left aside, and settings that mean nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.fsspec_store import open_fsspec_store
from penstock.actors.stores.store import StoreContext
from penstock.runtime.units import MIB, ByteSize

DAY_S = 86_400


def test_what_nodes_that_died_left_aside_goes_and_what_is_being_written_stays(
    tmp_path: Path,
) -> None:
    """C3: nobody can lock a file there, so that its age has to tell."""
    aside = tmp_path / ".aside"
    aside.mkdir()
    epoch = bytes(16).hex()
    for name, age_s in ((f"{epoch}-7", 2 * DAY_S), (f"{epoch}-8", 60), ("notes", 2 * DAY_S)):
        (aside / name).write_bytes(b"half")
        os.utime(aside / name, (time.time() - age_s,) * 2)

    async def main() -> None:
        config = FsspecConfig(name="far", url=f"file://{tmp_path}")
        await open_fsspec_store(config, StoreContext("far", Epoch(bytes(16))))

    anyio.run(main)
    assert sorted(one.name for one in aside.iterdir()) == [f"{epoch}-8", "notes"]


def test_what_nobody_keeps_is_refused() -> None:
    """E4: others write there, too: a capacity would be a promise that nobody keeps."""
    with pytest.raises(ValueError, match="capacity: others write there too"):
        FsspecConfig(name="far", url="memory://x", capacity=ByteSize(MIB))
