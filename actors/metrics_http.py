"""GET /metrics for Prometheus, and nothing else: one request per connection, bounded in size, time and number."""

from __future__ import annotations

from collections.abc import Callable

from anyio import (
    BrokenResourceError,
    CapacityLimiter,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
    create_task_group,
    create_tcp_listener,
    fail_after,
)
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from penstock.runtime.security import TcpAddress

REQUEST_BYTES_MAX = 8192
CONNECTIONS_MAX = 16
WITHIN_S = 5.0


async def serve_metrics(address: TcpAddress, exposition: Callable[[], bytes]) -> None:
    """Until cancelled. Raises OSError when the address is taken."""
    listener = await create_tcp_listener(local_host=address.host, local_port=address.port)
    slots = CapacityLimiter(CONNECTIONS_MAX)

    async def meet(stream: SocketStream) -> None:
        async with stream, slots:
            try:
                with fail_after(WITHIN_S):
                    await stream.send(await _respond(stream, exposition))
            except (TimeoutError, EndOfStream, IncompleteRead, BrokenResourceError):
                return

    async with listener, create_task_group() as visitors:
        await listener.serve(meet, visitors)


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
