"""A sender over NIXL that is stopped in the middle of a write, and goes on when its landing is long closed."""

from __future__ import annotations

import mmap
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

from penstock.actors.cli.attended import attended
from penstock.runtime.channel import SECRET_BYTES, Connection, LandingSlot
from penstock.runtime.nixl_agent import INSTALL, NixlOptions
from penstock.runtime.nixl_channel import NixlEndpoint
from penstock.runtime.units import MIB

pytestmark = pytest.mark.skipif(
    find_spec("nixl_cu13") is None, reason=f"the library of nixl is missing: {INSTALL}"
)
SENDER = Path(__file__).parents[2] / "support" / "nixl_sender.py"
SIZE = 64 * MIB


@contextmanager
def sender(offer: bytes, secret: bytes) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(SENDER), offer.hex(), secret.hex(), str(SIZE)]
    with subprocess.Popen(attended(command), stdin=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.loop_step_ms(500)  # 64 MiB are filled and compared
@pytest.mark.parametrize("attempt", range(3))
def test_a_stopped_sender_that_goes_on_writes_nothing_where_it_was_cut_off(attempt: int) -> None:
    """A14: memory is used again the moment close has returned, whatever the sender does then."""

    async def run() -> None:
        memory = mmap.mmap(-1, SIZE)
        endpoint = NixlEndpoint(NixlOptions(close_within=0.3), memoryview(memory))
        try:
            await scene(endpoint, memory)
        finally:
            await endpoint.aclose()

    async def scene(endpoint: NixlEndpoint, memory: mmap.mmap) -> None:
        secret, came, accepted = secrets.token_bytes(SECRET_BYTES), anyio.Event(), []

        def accept(connection: Connection) -> None:
            accepted.append(connection)
            came.set()

        endpoint.expect(secret, accept)
        with sender(endpoint.offer(), secret) as process:
            with anyio.fail_after(10):
                await came.wait()
            written = anyio.Event()
            slot = LandingSlot(memoryview(memory), memory)
            landing = accepted[0].open_landing([slot], lambda _: written.set())
            assert process.stdin is not None
            process.stdin.write(landing.grant.hex() + "\n")
            process.stdin.flush()
            with anyio.fail_after(10):
                await written.wait()
            os.kill(process.pid, signal.SIGSTOP)  # it is in the middle of the next one
            with anyio.fail_after(5):
                await landing.close()
            memory[:] = b"\xee" * SIZE
            os.kill(process.pid, signal.SIGCONT)
            with anyio.move_on_after(1.0):
                await anyio.sleep_forever()
            assert memory[:] == b"\xee" * SIZE

    anyio.run(run)
