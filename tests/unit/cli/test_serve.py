"""`penstock serve`: what is refused before a node starts."""

from __future__ import annotations

import argparse

import pytest

from penstock.actors.cli.serve import run
from penstock.runtime.errors import ConfigError


def test_a_key_set_twice_is_refused() -> None:
    """Seen to fail while the last one silently won."""
    given = ["l1.bytes=4MiB", "chunk_tokens=16", "l1.bytes=8MiB"]
    args = argparse.Namespace(config=None, set=given, log_json=False, ready_fd=None)
    with pytest.raises(ConfigError, match=r"l1\.bytes: --set gives it twice"):
        run(args)


def test_a_descriptor_that_is_not_open_is_refused_before_the_node_starts() -> None:
    """E4. Seen to fail: it started, and ended with a traceback when it was ready."""
    args = argparse.Namespace(config=None, set=[], log_json=False, ready_fd=1 << 20)
    with pytest.raises(ConfigError, match="--ready-fd: 1048576 is no open descriptor") as refusal:
        run(args)
    assert refusal.value.path == "--ready-fd"
