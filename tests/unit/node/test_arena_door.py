"""Whose process is behind a connection: the proof that memory may be used again."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import anyio
import pytest

from penstock.actors.api import session
from penstock.actors.api.types import SessionId
from penstock.actors.arena_door import ArenaDoor, DoorLimits, peer_pidfd
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import simulate

CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(tmp_path / "door"))
    made.listen()
    return made


def test_a_pidfd_fires_when_the_process_that_connected_is_gone_and_not_before(
    listener: socket.socket,
) -> None:
    """B5: the end of the connection says nothing; the end of the process does.

    Seen to fail with the pidfd of a process that only inherited the connection.
    """
    command = [sys.executable, "-c", CONNECT, listener.getsockname()]
    with listener, subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        connection, _ = listener.accept()
        with connection:
            pidfd = peer_pidfd(connection)
            assert pidfd is not None
            assert select.select([pidfd], [], [], 0)[0] == []
            process.kill()
            assert select.select([pidfd], [], [], 10)[0] == [pidfd]
            os.close(pidfd)
            process.wait()
            try:
                late = peer_pidfd(connection)
            except OSError:  # before Linux 6.16 there is none of a process that was waited for
                return
            assert late is not None
            assert select.select([late], [], [], 0)[0] == [late]
            os.close(late)


def test_the_pidfd_is_that_of_the_process_behind_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pidfd = peer_pidfd(ours)
        assert pidfd is not None
        said = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        os.close(pidfd)
        assert f"Pid:\t{os.getpid()}\n" in said


def test_a_death_is_told_however_long_the_keeper_has_no_room_for_it() -> None:
    """C11: the only proof that memory may be used again is not lost, and the node does not die of a full mailbox.

    Seen to fail: DeadlineExceeded ended the door, and so the node.
    """

    async def gone(_: int) -> None:
        await anyio.sleep(1)

    async def main() -> None:
        keeper: Ref[session.Sessions] = Ref.to(session.Sessions, "sessions", messages_max=1)
        keeper.tell_nowait(session.Abandoned(b""))
        door = ArenaDoor(Path("nowhere"), arena_fd=-1, limits=DoorLimits(1, 1.0, ask_s=0.5))
        entered = session.Door(SessionId(7), hands_out_arena=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(door._watch, 3, entered, keeper)
            await anyio.sleep(5)
            assert isinstance(keeper.mailbox.queue[0].msg, session.Abandoned)
            keeper.mailbox.take()
        assert [one.msg for one in keeper.mailbox.queue] == [session.ProcessExited(SessionId(7))]
        keeper.mailbox.close()
        await door._watch(3, entered, keeper)  # the node is stopping: nobody is left to be told

    with mock.patch("penstock.actors.arena_door.wait_readable", gone):
        simulate(0, main)
