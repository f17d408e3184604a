"""A node of its own for one replay: `penstock serve` as a process, gone when the block ends, or this process does."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import Process

from penstock.actors.cli.attended import attended
from penstock.runtime.errors import UnavailableError

READY_WITHIN_S = 60.0  # a node may wait for memory first
STOP_WITHIN_S = 10.0
LOG_BYTES_SHOWN = 2000
ADDRESS_BYTES_MAX = 4096


class NodeFailed(UnavailableError):
    """Theirs: the node did not start, or ended under the replay. The message has its last words."""


class ServedNode:
    """A running `penstock serve`."""

    def __init__(self, address: str, process: Process, log: Path) -> None:
        self.address = address
        self._process = process
        self._log = log

    def check(self) -> None:
        """Raises NodeFailed when the process has ended."""
        if self._process.returncode is not None:
            raise NodeFailed(f"the node ended: {_last_words(self._log)}")


@asynccontextmanager
async def serving(settings: Mapping[str, object]) -> AsyncIterator[ServedNode]:
    """Run a node with this configuration, and nothing of this process's environment.

    Raises NodeFailed.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-replay-") as directory:
        log = Path(directory) / "node.log"
        config = Path(directory) / "node.yaml"
        config.write_text(json.dumps({"state_dir": directory, **settings}))  # JSON is YAML
        serve = [sys.executable, "-m", "penstock.actors.cli.main", "serve", "--config", str(config)]
        read_fd, write_fd = os.pipe()
        try:
            with log.open("wb") as stream:
                process = await anyio.open_process(
                    attended([*serve, "--ready-fd", str(write_fd)]),
                    stdin=None,
                    stdout=stream,
                    stderr=stream,
                    pass_fds=(write_fd,),
                    env=_environment(),
                    start_new_session=True,  # an interrupt is the replay's, which stops its node
                )
            os.close(write_fd)
            write_fd = -1
            try:
                yield ServedNode(await _address(read_fd, log), process, log)
            finally:
                with anyio.CancelScope(shield=True):
                    await _stop(process)
        finally:
            os.close(read_fd)
            if write_fd >= 0:
                os.close(write_fd)


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("PENSTOCK_")}


async def _address(read_fd: int, log: Path) -> str:
    """What the node writes when it is ready; the pipe's end when it dies first."""
    with anyio.move_on_after(READY_WITHIN_S):
        await anyio.wait_readable(read_fd)
        address = os.read(read_fd, ADDRESS_BYTES_MAX).decode().strip()
        if address:
            return address
    raise NodeFailed(f"the node did not start: {_last_words(log)}")


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_WITHIN_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()


def _last_words(log: Path) -> str:
    words = log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace").strip()
    return words or "it said nothing"
