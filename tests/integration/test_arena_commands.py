"""`penstock store arena`, against a real node with a dax store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.nodes import served_node


def arena(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock.actors.cli.main", "store", "arena", *words]
    return subprocess.run(
        [*command, "--address", address], capture_output=True, text=True, timeout=15, check=False
    )


def test_arenas_are_listed_added_drained_and_removed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    store = {
        "name": "pmem",
        "type": "dax",
        "slot_bytes": "64KiB",
        "arenas": [{"path": str(one), "bytes": "1MiB"}],
    }
    with served_node(tmp_path / "state", stores=json.dumps([store])) as node:
        listed = arena(node.address, "list", "pmem")
        assert listed.stdout == f"{one}  0 of 15 slots taken, open\n", listed
        added = arena(node.address, "add", "pmem", str(two), "--bytes", "1MiB")
        assert added.stdout.splitlines()[1:] == [f"{two}  0 of 15 slots taken, open"], added
        refused = arena(node.address, "remove", "pmem", str(one))
        assert refused.returncode != 0
        assert "drain it first" in refused.stderr
        assert (
            f"{one}  0 of 15 slots taken, draining"
            in arena(node.address, "drain", "pmem", str(one)).stdout
        )
        removed = arena(node.address, "remove", "pmem", str(one))
        assert removed.stdout == f"{two}  0 of 15 slots taken, open\n", removed
        assert "there is no store 'other'" in arena(node.address, "list", "other").stderr
