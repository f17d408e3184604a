"""A claim is held by one, for as long as it lives."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.runtime.claim import check_nobody_listens, claimed
from penstock.runtime.errors import StartFailed

HOLD = """
import sys
from pathlib import Path
from penstock.runtime.claim import claimed
with claimed(Path(sys.argv[1]), otherwise="x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_is_held_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with claimed(lock, otherwise="somebody is here"):
        with pytest.raises(StartFailed, match="lock is locked: somebody is here"):
            with claimed(lock, otherwise="somebody is here"):
                pass
    with claimed(lock, otherwise="somebody is here"):
        assert lock.stat().st_mode & 0o777 == 0o600


def test_a_dead_owner_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(StartFailed):
            with claimed(lock, otherwise="x"):
                pass
        owner.kill()
        owner.wait()
        with claimed(lock, otherwise="x"):
            pass


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_somebody_listens_at_is_not_free_and_one_he_left_is(
    tmp_path: Path, kind: socket.SocketKind
) -> None:
    path = tmp_path / "socket"
    check_nobody_listens(path, otherwise="x")
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        if kind is socket.SOCK_STREAM:
            other.listen(1)
        for _ in range(3):  # its queue is full from the second on
            with pytest.raises(StartFailed, match=rf"{path} is the socket of .*: go away"):
                check_nobody_listens(path, otherwise="go away")
    assert path.exists()
    check_nobody_listens(path, otherwise="x")
