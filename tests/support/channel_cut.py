"""Two ends of a TCP channel whose network is cut without a word: run in a network namespace of its own, as root.

`unshare -n python channel_cut.py` says, as JSON, a line for an idle connection and one for a sending one: what both
ends said, and after how many seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time

from penstock.runtime.channel import ChannelLost, Connection, LandingSlot, Piece
from penstock.runtime.native_channel import TcpEndpoint
from penstock.runtime.security import TcpAddress
from penstock.runtime.tcp_options import TcpChannelOptions
from penstock.runtime.units import MIB

PEER_TIMEOUT_S = 1.0
SECRET = bytes(32)


def loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


async def cut(dialer: TcpEndpoint, listener: TcpEndpoint, pieces: int) -> dict[str, object]:
    came: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    listener.expect(SECRET, came.set_result)
    near = await dialer.dial(listener.offer(), SECRET, within=5)
    far = await came
    memory = bytearray(MIB)
    landing = far.open_landing([LandingSlot(memoryview(memory), None)], lambda _: None)
    loopback("down")
    began = time.monotonic()
    with contextlib.suppress(ChannelLost):
        some = [Piece(number, 0, 0, memoryview(bytes(MIB)), None) for number in range(pieces)]
        await near.send(landing.grant, some)
    said = [await near.wait_lost(), await far.wait_lost()]
    took_s = time.monotonic() - began
    loopback("up")
    return {"said": said, "took_s": took_s}


async def main() -> None:
    options = TcpChannelOptions(listen=TcpAddress("127.0.0.1", 0), peer_timeout=PEER_TIMEOUT_S)
    loopback("up")
    dialer, listener = TcpEndpoint(options), TcpEndpoint(options)
    for pieces in (0, 64):
        print(json.dumps(await cut(dialer, listener, pieces)), flush=True)
    await dialer.aclose()
    await listener.aclose()


if __name__ == "__main__":
    asyncio.run(main())
