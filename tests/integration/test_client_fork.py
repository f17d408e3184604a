"""A fork of the engine process: the child holds nothing of its parent's, and cannot use its client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import forking_engine
from support.nodes import served_node


def test_a_forked_child_has_neither_arena_nor_session(tmp_path: Path) -> None:
    """B5: a child that kept the arena's socket or mapping would look like its parent living on. The parent's client
    goes on as if nothing had been. Seen to fail without `GuardedSocket`, and (one child in three dies of SIGSEGV
    inside gRPC) with gRPC's fork support left on."""
    with served_node(tmp_path / "node") as node:
        done = subprocess.run(
            [sys.executable, forking_engine.__file__, node.address],
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (refusal,) = said.pop("refusals")
    assert refusal.startswith("this client was made by process")
    assert said == {
        "child_has_socket": False,
        "child_arenas": 0,
        "parent_has_socket": True,
        "parent_arenas": 1,
        "inheritable": False,
        "chunks_after": 4,
        "attachments": 1,
        "child_closes": None,
    }
