"""What the commands that operate a node say of files that they cannot use."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.actors.cli.operate import call
from penstock.runtime.errors import ConfigError


def never(_: grpc.Channel) -> Callable[..., Any]:
    def ask(*_: object, **__: object) -> None:
        raise AssertionError("it was called")

    return ask


@pytest.mark.parametrize("option", ["token_file", "tls_ca"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_used_is_named_by_its_option(
    tmp_path: Path, option: str, content: bytes | None
) -> None:
    """E4. Seen to fail: the node's address, FileNotFoundError and a number, or a traceback."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    given = {"token_file": None, "tls_ca": None, option: str(path)}
    args = argparse.Namespace(address="127.0.0.1:1", **given)
    words = "is no text" if content else "cannot be read: No such file or directory"
    named = option.replace("_", "-")
    with pytest.raises(ConfigError, match=f"--{named}: {path} {words}"):
        call(args, never, None)
