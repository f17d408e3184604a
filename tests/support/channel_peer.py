"""The other end of a TCP channel in a process of its own, to be killed or stopped.

`python channel_peer.py SECRET_HEX BYTES` says its offer, and when it was dialled the grant of one landing with one slot
of so many bytes; each as hex, a line.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio

from penstock.runtime.channel import Connection, LandingSlot
from penstock.runtime.native_channel import TcpEndpoint
from penstock.runtime.security import TcpAddress
from penstock.runtime.tcp_options import TcpChannelOptions


@dataclass(frozen=True)
class PeerProcess:
    process: subprocess.Popen[str]
    offer: bytes

    async def grant(self) -> bytes:
        """Once it was dialled."""
        return await _line(self.process)


@asynccontextmanager
async def peer_process(secret: bytes, size: int) -> AsyncIterator[PeerProcess]:
    command = [sys.executable, __file__, secret.hex(), str(size)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        yield PeerProcess(process, await _line(process))
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def _line(process: subprocess.Popen[str]) -> bytes:
    assert process.stdout is not None
    line = await anyio.to_thread.run_sync(process.stdout.readline)
    assert line, f"the peer ended with {process.wait(10)}"
    return bytes.fromhex(line)


async def main(secret: bytes, size: int) -> None:
    endpoint = TcpEndpoint(TcpChannelOptions(listen=TcpAddress("127.0.0.1", 0)))
    came: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    endpoint.expect(secret, came.set_result)
    print(endpoint.offer().hex(), flush=True)
    connection = await came
    memory = bytearray(size)
    landing = connection.open_landing([LandingSlot(memoryview(memory), memory)], lambda _: None)
    print(landing.grant.hex(), flush=True)
    await connection.wait_lost()
    await endpoint.aclose()


if __name__ == "__main__":
    asyncio.run(main(bytes.fromhex(sys.argv[1]), int(sys.argv[2])))
