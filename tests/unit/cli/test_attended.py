"""A child ends with its parent, however that ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from penstock.actors.cli.attended import attended

PARENT = """
import subprocess, sys
from penstock.actors.cli.attended import attended
sleeper = "import signal; print(flush=True); signal.pause()"
child = subprocess.Popen(attended([sys.executable, "-c", sleeper]),
                         stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def has_ended(pidfd: int, *, within_s: float) -> bool:
    return bool(select.select([pidfd], [], [], within_s)[0])


def test_a_child_ends_when_its_parent_is_killed() -> None:
    """Seen to fail without PR_SET_PDEATHSIG: the child lives on."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert not has_ended(pidfd, within_s=0)
            parent.kill()
            assert has_ended(pidfd, within_s=10)
        finally:
            os.close(pidfd)


def test_the_command_takes_the_process_over() -> None:
    """Same process id, arguments, environment and descriptors; its own exit status."""
    program = "import os, sys; print(os.getpid(), os.environ['WORD'], sys.argv[1:]); sys.exit(7)"
    child = subprocess.Popen(
        attended([sys.executable, "-c", program, "-x", "a b"]),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "WORD": "said"},
    )
    out, _ = child.communicate(timeout=10)
    assert out.split(maxsplit=2) == [str(child.pid), "said", "['-x', 'a b']\n"]
    assert child.returncode == 7


def test_an_orphan_from_the_start_does_not_run(tmp_path: Path) -> None:
    """The parent may be gone before the kernel was told to watch it."""
    mark = tmp_path / "ran"
    command = attended(["touch", str(mark)])
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, timeout=10, check=False).returncode == 0
    assert not mark.exists()
    assert subprocess.run(attended(["touch", str(mark)]), timeout=10, check=False).returncode == 0
    assert mark.exists()


def test_a_command_that_is_not_there_fails() -> None:
    done = subprocess.run(
        attended(["no-such-program"]), stderr=subprocess.PIPE, timeout=10, check=False
    )
    assert done.returncode != 0
    assert b"FileNotFoundError" in done.stderr


def test_it_can_still_be_asked_to_stop() -> None:
    child = subprocess.Popen(attended(["sleep", "60"]))
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
