"""A process that sends the same megabytes over NIXL, again and again, until it is ended. Arguments: offer and secret in
hex, and the bytes of a piece. A grant comes on the standard input, in hex; it says so when it begins.
"""

from __future__ import annotations

import asyncio
import mmap
import sys

from penstock.runtime.channel import Piece
from penstock.runtime.nixl_agent import NixlOptions
from penstock.runtime.nixl_channel import NixlEndpoint


async def main(offer: bytes, secret: bytes, size: int) -> None:
    memory = mmap.mmap(-1, size)
    memory.write(b"\x55" * size)
    endpoint = NixlEndpoint(NixlOptions(), memoryview(memory))
    connection = await endpoint.dial(offer, secret, within=10)
    grant = bytes.fromhex(sys.stdin.readline())
    number = 0
    while True:
        await connection.send(grant, [Piece(number, 0, 0, memoryview(memory), None)])
        number += 1


if __name__ == "__main__":
    asyncio.run(main(bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])))
