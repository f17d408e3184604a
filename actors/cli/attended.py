"""Children that do not outlive the process that started them, not even when that is killed by SIGKILL.

`attended(command)` is a command line that runs this file as a script in front of `command`: it has the kernel send
SIGTERM when the parent is gone (prctl(2), PR_SET_PDEATHSIG) and then becomes `command` by exec, with the same process
id. Nothing runs between fork and exec in the parent, which may have threads. The kernel counts the end of the *thread*
that started the child as its parent's death, so start children from the main thread, or one that lives as long.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def attended(command: Sequence[str]) -> list[str]:
    """`command`, ended by SIGTERM when this process is gone. `command[0]` is a program's path, or found on PATH."""
    # -I and -S: a bare interpreter, which starts in some 10 ms and reads nothing of the caller's environment.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """Become the command in `arguments[1:]`; `arguments[0]` is the process id of the parent."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(arguments[0]):
        return  # the parent ended before the kernel was told
    os.execvp(arguments[1], list(arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
