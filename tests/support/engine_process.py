"""An engine in a process of its own, to be killed: `python engine_process.py ADDRESS INSTANCE_HEX ACT...`.

Acts, in order: `put` stores prompt "put", `pin` looks it up, `read` acquires it too, `reserve` leaves a reservation
of prompt "new", `short` makes the leases after it last 50 ms, `fork` forks a child that keeps every socket open,
`slip` shows the secret at the arena's door and hangs up before the answer. Then the process says its pids as JSON, one
line, and stays.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio
from support.declarations import hello, keys
from support.raw_engine import RawEngine, attached

CHUNKS = 4


@dataclass(frozen=True)
class EngineProcess:
    process: subprocess.Popen[str]
    child_pid: int  # 0: it forked none

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9, of the process alone and not of its child."""
        self.process.kill()
        self.process.wait(10)


@asynccontextmanager
async def engine_process(
    address: str, *acts: str, instance: bytes = b"e" * 16
) -> AsyncIterator[EngineProcess]:
    """Start one that has done `acts`. It and its child are gone at the end."""
    command = [sys.executable, __file__, address, instance.hex(), *acts]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    child_pid = 0
    try:
        assert process.stdout is not None
        line = await anyio.to_thread.run_sync(process.stdout.readline)
        assert line, f"the engine process ended with {process.wait(10)}"
        child_pid = json.loads(line)["child_pid"]
        yield EngineProcess(process, child_pid)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        if child_pid:
            with suppress(ProcessLookupError):
                os.kill(child_pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()


def keep_sockets_open() -> None:
    """Duplicate every socket: gRPC closes its own in a forked child, other libraries do not."""
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # the one that listed the others is closed
            if str(descriptor.readlink()).startswith("socket:"):
                os.dup(int(descriptor.name))


async def _act(engine: RawEngine, acts: list[str]) -> int:
    child_pid, lease_ms, ticket = 0, 0, b""
    for act in acts:
        match act:
            case "put":
                await engine.put(keys(CHUNKS, prompt="put"))
            case "pin" | "read":
                found = (await engine.lookup(keys(CHUNKS, prompt="put"))).lookup
                assert found.hit_chunks == CHUNKS, found
                ticket = found.ticket
                if act == "read":
                    assert (await engine.acquire(ticket, lease_ms=lease_ms)).HasField("acquired")
            case "reserve":
                reserved = await engine.reserve(keys(CHUNKS, prompt="new"), lease_ms=lease_ms)
                assert reserved.reserved.lease, reserved
            case "short":
                lease_ms = 50
            case "slip":
                with socket.socket(socket.AF_UNIX) as door:
                    door.connect(engine.welcome.arena_socket)
                    door.sendall(engine.welcome.session_secret)
            case "fork":
                keep_sockets_open()
                child_pid = os.fork()
                if child_pid == 0:
                    signal.pause()
                    os._exit(0)
            case _:
                raise ValueError(act)
    return child_pid


async def main(address: str, instance: bytes, acts: list[str]) -> None:
    is_welcome = "slip" not in acts
    async with attached(address, hello(instance=instance), enter=is_welcome) as engine:
        child_pid = await _act(engine, acts)
        print(json.dumps({"pid": os.getpid(), "child_pid": child_pid}), flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3:])
