"""GET /metrics for Prometheus, and nothing else: one request per connection, bounded in size, time and number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Never, assert_never

from anyio import (
    BrokenResourceError,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
    create_tcp_listener,
    fail_after,
)
from anyio.abc import SocketListener, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from penstock.runtime.accepting import accept_all
from penstock.runtime.actor import Actor
from penstock.runtime.errors import StartFailed, mapped
from penstock.runtime.security import TcpAddress

REQUEST_BYTES_MAX = 8192


@dataclass(frozen=True, slots=True)
class MetricsLimits:
    connections_max: int  # met at once; others wait unaccepted
    within_s: float  # for a request and its answer


class MetricsServer(Actor[Never]):
    """Takes no messages. Does not start, and says why, when the address is taken."""

    def __init__(
        self, address: TcpAddress, exposition: Callable[[], bytes], limits: MetricsLimits
    ) -> None:
        self._address = address
        self._exposition = exposition
        self._limits = limits

    async def on_start(self) -> None:
        host, port = self._address.host, self._address.port

        def cannot_listen(problem: str) -> StartFailed:
            return StartFailed(f"metrics_address {self._address.target()}: {problem}")

        with mapped({OSError: cannot_listen}):
            bound = await create_tcp_listener(local_host=host, local_port=port)
        for listener in bound.listeners:  # one for each address the name stands for
            assert isinstance(listener, SocketListener)
            self.start_soon(self._accept, listener, name="metrics server")

    def receive(self, msg: Never) -> object:
        assert_never(msg)

    async def _accept(self, listener: SocketListener) -> None:
        async with listener:
            await accept_all(listener, self._meet, connections_max=self._limits.connections_max)

    async def _meet(self, stream: SocketStream) -> None:
        try:
            with fail_after(self._limits.within_s):
                await stream.send(await _respond(stream, self._exposition))
        except (TimeoutError, EndOfStream, IncompleteRead, BrokenResourceError):
            return


async def _respond(stream: SocketStream, exposition: Callable[[], bytes]) -> bytes:
    try:
        head = await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", REQUEST_BYTES_MAX)
    except DelimiterNotFound:
        return _response("431 Request Header Fields Too Large", b"")
    method, _, rest = head.partition(b" ")
    if method != b"GET":
        return _response("405 Method Not Allowed", b"")
    if rest.split(b" ")[0].split(b"?")[0] != b"/metrics":
        return _response("404 Not Found", b"the metrics are at /metrics\n")
    return _response("200 OK", exposition())


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
