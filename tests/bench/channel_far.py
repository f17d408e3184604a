"""The receiving process of tests/bench/channels.py: one channel of ours, or a bare baseline. Arguments: what, bytes of
memory, and the link's secret in hex.

Speaks JSON lines: it says how it is dialled, then answers each line on the standard input. Of ours: `{"open": bytes,
"count": n}` opens a landing of so many slots and says its grant; from then on every n whole objects are told with the
CPU seconds used so far. `{"pong": grant}` opens one small slot, and each object in it is answered by one to `grant`.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence

import anyio
import grpc

from penstock.runtime.channel import Connection, Endpoint, Landing, LandingSlot, Piece
from penstock.runtime.grpc_channel import GrpcEndpoint, data_handler
from penstock.runtime.native_channel import TcpEndpoint
from penstock.runtime.nixl_agent import NixlOptions
from penstock.runtime.nixl_channel import NixlEndpoint
from penstock.runtime.security import TcpAddress
from penstock.runtime.tcp_options import TcpChannelOptions

SMALL_BYTES = 4096
MESSAGE_BYTES = 1 << 20  # of the bare stream


def say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def new_endpoint(kind: str, memory: memoryview) -> Endpoint:
    """On loopback."""
    if kind == "tcp":
        return TcpEndpoint(TcpChannelOptions(listen=TcpAddress("127.0.0.1", 0)))
    if kind == "grpc":
        return GrpcEndpoint()
    return NixlEndpoint(NixlOptions(), memory)


class Far:
    """The receiving side of a connection."""

    def __init__(self, connection: Connection, memory: memoryview) -> None:
        self._connection = connection
        self._memory = memory
        self._landings: list[Landing] = []
        self._sends: set[asyncio.Task[None]] = set()
        self._whole = 0

    def obey(self, line: bytes) -> None:
        order = json.loads(line)
        if "open" in order:
            size, count = order["open"], order["count"]
            views = [self._memory[at * size : (at + 1) * size] for at in range(count)]
            self._open(views, lambda numbers: self._count(len(numbers), count))
        else:
            self._open([self._memory[:SMALL_BYTES]], self._answer(bytes.fromhex(order["pong"])))

    def _open(self, views: Sequence[memoryview], arrived: Callable[[Sequence[int]], None]) -> None:
        self._whole = 0
        slots = [LandingSlot(one, one) for one in views]
        self._landings.append(self._connection.open_landing(slots, arrived))
        say({"grant": self._landings[-1].grant.hex()})

    def _count(self, more: int, count: int) -> None:
        self._whole += more
        if self._whole == count:
            self._whole = 0
            say({"cpu_s": time.process_time()})

    def _answer(self, grant: bytes) -> Callable[[Sequence[int]], None]:
        payload = memoryview(self._memory)[SMALL_BYTES : 2 * SMALL_BYTES]

        def arrived(numbers: Sequence[int]) -> None:
            pieces = [Piece(one, 0, 0, payload, None) for one in numbers]
            task = asyncio.get_running_loop().create_task(self._connection.send(grant, pieces))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

        return arrived


async def ours(kind: str, memory: memoryview, secret: bytes) -> None:
    endpoint = new_endpoint(kind, memory)
    accepted: list[Connection] = []
    came = anyio.Event()

    def accept(connection: Connection) -> None:
        accepted.append(connection)
        came.set()

    endpoint.expect(secret, accept)
    offer = endpoint.offer().hex()
    if isinstance(endpoint, GrpcEndpoint):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((data_handler(endpoint),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        say({"offer": offer, "port": port})
    else:
        say({"offer": offer})
    await came.wait()
    far = Far(accepted[0], memory)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        far.obey(line)
    os._exit(0)  # the peer has gone, and there is nobody to end it with


async def bare_grpc() -> None:
    """Counts bytes; what is small comes back."""

    async def serve(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while isinstance(raw := await context.read(), bytes):
            if len(raw) <= SMALL_BYTES:
                await context.write(raw)

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: object) -> object:
            return grpc.stream_stream_rpc_method_handler(serve)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say({"port": port})
    await server.wait_for_termination()


def bare_socket(memory: memoryview) -> None:
    """Sends back 4 KiB for each 4 KiB; of anything announced by 8 bytes, one byte when all of it has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        say({"port": listener.getsockname()[1]})
        peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = bytearray(8)
    while received(peer, memoryview(head)):
        size = int.from_bytes(head, "little")
        received(peer, memory[:size])
        peer.sendall(memory[:size] if size == SMALL_BYTES else b"k")


async def bare_loop() -> None:
    """Sends back what comes."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        say({"port": listener.getsockname()[1]})
        peer, _ = await loop.sock_accept(listener)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while raw := await loop.sock_recv(peer, 64 * 1024):
        await loop.sock_sendall(peer, raw)


def received(peer: socket.socket, memory: memoryview) -> bool:
    """Whether all of `memory` was filled."""
    at = 0
    while at < len(memory):
        count = peer.recv_into(memory[at:])
        if not count:
            return False
        at += count
    return True


def bare_mooncake(memory: mmap.mmap) -> None:
    from channel_bare import address_of
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    address = address_of(memory)
    assert engine.register_memory(address, len(memory)) == 0
    say({"peer": f"127.0.0.1:{engine.get_rpc_port()}", "address": address})
    sys.stdin.read()
    os._exit(0)


def bare_nixl(memory: mmap.mmap) -> None:
    """Looks without a pause while it is told to: between two lines."""
    from channel_bare import address_of, new_nixl_agent

    agent, _told = new_nixl_agent("far", memory)
    say({"metadata": agent.get_agent_metadata().hex(), "address": address_of(memory)})
    agent.add_remote_agent(bytes.fromhex(json.loads(sys.stdin.readline())["metadata"]))
    while line := sys.stdin.readline():
        notes, wanted = 0, json.loads(line)["notes"]
        while notes < wanted:
            for came in agent.get_new_notifs(["UCX"]).values():
                notes += len(came)
                for note in came:
                    if note == b"ping":
                        agent.send_notif("near", b"pong")
        say({"cpu_s": time.process_time()})
    os._exit(0)


def main(what: str, size: int, secret: bytes) -> None:
    memory = mmap.mmap(-1, size)
    memory.write(bytes(size))
    if what == "bare_grpc":
        asyncio.run(bare_grpc())
    elif what == "bare_loop":
        asyncio.run(bare_loop())
    elif what == "bare_socket":
        bare_socket(memoryview(memory))
    elif what == "bare_mooncake":
        bare_mooncake(memory)
    elif what == "bare_nixl":
        bare_nixl(memory)
    else:
        asyncio.run(ours(what, memoryview(memory), secret))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]))
