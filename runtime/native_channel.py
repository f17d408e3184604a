"""Data channels over plain TCP, moved by native threads: `penstock._native.ChannelEndpoint` on an event loop.

    endpoint = TcpEndpoint(TcpChannelOptions(listen=TcpAddress("127.0.0.1", 0)))
    connection = await endpoint.dial(offer, secret, within=5)
    await connection.send(grant, pieces)

Bytes travel in the clear, and who connects is known by a secret that travels with them: for loopback, and for networks
that are trusted as one trusts a bus. A connection that carries nothing costs nothing: its threads sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections import deque

import anyio

from penstock._native import ChannelEnded, ChannelEndpoint
from penstock.runtime.channel import Accepted, ChannelKind, ChannelLost
from penstock.runtime.errors import CapacityError, ConfigError, StartFailed
from penstock.runtime.log import Log
from penstock.runtime.native_connection import OURS, TOKEN_BYTES, Carrier, TcpConnection
from penstock.runtime.security import TcpAddress, parse_address
from penstock.runtime.tcp_options import TcpChannelOptions

TOLD_MAX = 512  # news, and numbers of pieces, in one step of the loop


class TcpEndpoint:
    """One node's end of all its TCP channels. Belongs to the running loop. See `runtime.channel.Endpoint`."""

    def __init__(self, options: TcpChannelOptions, *, log: Log | None = None) -> None:
        """Raises StartFailed when it cannot listen there; ConfigError when nobody could dial that; ValueError for an
        option out of its range."""
        self.strangers_refused = 0
        self._carrier = Carrier(_native(options), options)
        self._native = self._carrier.native
        self._log = log or Log("tcp_channel")
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, TcpConnection] = {}
        self._dialling: dict[int, asyncio.Future[None]] = {}
        self._expected: dict[int, tuple[bytes, Accepted]] = {}  # by number
        self._unheard: deque[tuple[int, int, int, list[int], str]] = deque()  # of one step
        self._closed: asyncio.Future[None] | None = None
        self._offer = b""
        if options.listen is not None:
            self._listen(options.listen, options.advertise)
        self._ears = (
            *(self._hear_connected, self._hear_accepted, self._hear_arrived),
            *(self._hear_sent, self._hear_failed),
            *(self._hear_drained, self._hear_lost, self._hear_refused),
        )  # by ChannelNews
        self._loop.add_reader(self._native.event_fd, self._hear)

    @property
    def kind(self) -> ChannelKind:
        return ChannelKind.TCP

    def offer(self) -> bytes:
        return self._offer

    def expect(self, secret: bytes, accepted: Accepted) -> None:
        """Raises CapacityError beyond `expected_max`, ValueError for what is no secret."""
        if len(self._expected) >= self._carrier.options.expected_max:
            raise CapacityError(
                f"{self._carrier.options.expected_max} connections are expected already"
            )
        self._expected[self._native.expect(secret)] = secret, accepted

    def forget(self, secret: bytes) -> None:
        numbers = [number for number, (one, _) in self._expected.items() if one == secret]
        for number in numbers:
            self._native.forget(number)
            del self._expected[number]

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> TcpConnection:
        if self._closed is not None:
            raise ChannelLost("the endpoint is closed")
        try:
            with anyio.fail_after(within):
                *others, last = await self._resolve(offer)
                for address in others:
                    with contextlib.suppress(ChannelLost):
                        return await self._dial(address, secret)
                return await self._dial(last, secret)
        except TimeoutError:
            raise ChannelLost(f"the peer did not answer within {within:g} s") from None

    async def aclose(self) -> None:
        if self._closed is None:
            self._closed = self._loop.create_future()
            for number in [*self._expected]:
                self._native.forget(number)
            self._expected.clear()
            for connection in [*self._connections.values()]:
                self._native.end(connection.id, OURS)
            self._end_if_last()
        await asyncio.shield(self._closed)

    def _end_if_last(self) -> None:
        if self._closed is None or self._closed.done() or self._connections:
            return
        self._loop.remove_reader(self._native.event_fd)
        self._native.close()
        self._closed.set_result(None)

    def _listen(self, address: TcpAddress, advertised: TcpAddress | None) -> None:
        host = address.host
        if advertised is None and host in ("0.0.0.0", "::"):
            self._native.close()
            raise ConfigError("advertise", f"{host} is no address that others can dial: name one")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, address.port), family=family, backlog=256)
        except OSError as refusal:
            self._native.close()
            raise StartFailed(f"cannot listen on {address.target()}: {refusal}") from refusal
        port = listener.getsockname()[1]
        shown = TcpAddress(host, port)
        if advertised is not None:
            shown = TcpAddress(advertised.host, advertised.port or port)
        self._offer = shown.target().encode()
        listener.setblocking(False)
        self._native.listen(listener.detach())

    async def _resolve(self, offer: bytes) -> list[TcpAddress]:
        """All of a name's, at least one."""
        try:
            address = parse_address(offer.decode())
        except (ConfigError, UnicodeDecodeError):
            address = None
        if not isinstance(address, TcpAddress):
            raise ChannelLost(f"{offer[:64]!r} is no offer of a TCP channel")
        with contextlib.suppress(ValueError):
            return [TcpAddress(str(ipaddress.ip_address(address.host)), address.port)]
        try:
            found = await self._loop.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as unknown:
            raise ChannelLost(f"{address.host!r} is not known: {unknown}") from unknown
        return [TcpAddress(str(one[4][0]), address.port) for one in found]

    async def _dial(self, address: TcpAddress, secret: bytes) -> TcpConnection:
        try:
            number = self._native.dial(
                address.host, address.port, secrets.token_bytes(TOKEN_BYTES), secret
            )
        except ChannelEnded as refusal:
            raise ChannelLost(str(refusal)) from refusal
        connection = self._connections[number] = TcpConnection(self._carrier, number)
        connected = self._dialling[number] = self._loop.create_future()
        try:
            await connected
        except asyncio.CancelledError:
            self._native.end(number, "the dial was given up")
            raise
        finally:
            del self._dialling[number]
        return connection

    # What happened.

    def _hear(self) -> None:
        self._unheard.extend(self._native.told(TOLD_MAX))
        try:
            while self._unheard:
                kind, number, of, numbers, reason = self._unheard.popleft()
                self._ears[kind](number, of, numbers, reason)
        finally:
            if self._unheard:  # what a callback raises is its own; the others hear all the same
                self._loop.call_soon(self._hear)

    def _hear_connected(self, number: int, _of: int, _numbers: list[int], _reason: str) -> None:
        connected = self._dialling.get(number)
        if connected is not None and not connected.done():
            connected.set_result(None)

    def _hear_accepted(self, number: int, of: int, _numbers: list[int], _reason: str) -> None:
        connection = self._connections[number] = TcpConnection(self._carrier, number)
        expected = self._expected.pop(of, None)
        if expected is None:
            self._native.end(number, "it is not expected any more")
        else:
            expected[1](connection)

    def _hear_arrived(self, number: int, _of: int, numbers: list[int], _reason: str) -> None:
        landing = self._carrier.landings.get(number)
        if landing is not None and not landing.is_closed:
            landing.arrived(numbers)

    def _hear_sent(self, number: int, _of: int, _numbers: list[int], _reason: str) -> None:
        self._carrier.sends.pop(number).end(number)

    def _hear_failed(self, number: int, _of: int, _numbers: list[int], _reason: str) -> None:
        self._carrier.sends.pop(number).fail()

    def _hear_drained(self, number: int, _of: int, _numbers: list[int], _reason: str) -> None:
        self._carrier.landings.pop(number).end()

    def _hear_lost(self, number: int, _of: int, _numbers: list[int], reason: str) -> None:
        self._connections.pop(number).end(reason)
        connected = self._dialling.get(number)
        if connected is not None and not connected.done():
            connected.set_exception(ChannelLost(reason))
        self._end_if_last()

    def _hear_refused(self, _number: int, of: int, _numbers: list[int], reason: str) -> None:
        self.strangers_refused += of
        self._log.warning_once("stranger_refused", reason, reason=reason)


def _native(options: TcpChannelOptions) -> ChannelEndpoint:
    return ChannelEndpoint(
        threads=options.threads,
        streams=options.streams,
        connections_max=options.connections_max,
        strangers_max=options.strangers_max,
        hello_within=options.hello_within,
        peer_timeout=options.peer_timeout,
        part_bytes=options.part_bytes,
        receive_bytes=options.receive_bytes,
        socket_buffer_bytes=options.socket_buffer_bytes,
        arrivals_max=options.arrivals_max,
        landings_max=options.landings_max,
        pieces_max=options.pieces_max,
    )
