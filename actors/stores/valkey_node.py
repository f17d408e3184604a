"""One Valkey server: a bounded number of connections, made when they are needed, and made anew when they are lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from penstock.actors.stores.resp import ConnectionLost, RespConnection, Sink
from penstock.actors.stores.resp_words import Data, Reply, RespError, command
from penstock.actors.stores.store import StoreFault
from penstock.actors.stores.valkey_config import is_far
from penstock.runtime.background import Background
from penstock.runtime.security import Address, Secret, UnixAddress


class LoginRefused(StoreFault):
    """Theirs: the server does not know this user, or not by this password."""


@dataclass(frozen=True, slots=True)
class Login:
    """How a connection begins."""

    user: str
    password: Secret | None
    database: int
    tls: ssl.SSLContext | None = field(repr=False)
    connect_s: float
    stall_s: float
    connections_max: int
    allow_clear: bool  # to servers beyond this machine, when there is no tls

    def commands(self) -> list[list[Data]]:
        commands = []
        if self.password is not None:
            user = (self.user,) if self.user else ()
            commands.append(command("AUTH", *user, self.password.reveal()))
        if self.database:
            commands.append(command("SELECT", str(self.database)))
        return [*commands, command("PING")]


@dataclass(frozen=True, slots=True)
class Request:
    """Commands that are sent together."""

    commands: Sequence[Sequence[Data]]
    sinks: Sequence[Sink | None] = ()  # of the first of them
    hold: object = field(default=None, repr=False)
    # Told what goes on by itself when who asked waits no more; it ends when nothing of it can change anything.
    if_given_up: Callable[[asyncio.Future[list[Reply]]], None] | None = None


class _Place:
    """For one connection."""

    def __init__(self, opened: Callable[[], Coroutine[Any, Any, RespConnection]]) -> None:
        self.connection: RespConnection | None = None
        self._opened = opened
        # It goes on, so that one with a short deadline learns of a dead server, too, and the next one has it sooner.
        self.opening = Background(self._open, StoreFault)

    async def _open(self) -> RespConnection:
        self.connection = await self._opened()
        return self.connection

    @property
    def load(self) -> tuple[int, int]:
        """The lower the better; an idle connection is better than one that is not there yet."""
        connection = self.connection
        if connection is None or not connection.is_open:
            return (self.opening.waiting, 1)
        return (self.opening.waiting + connection.waiting, 0)


def _nobody(_: ValkeyNode) -> None:
    """There is no other server."""


class ValkeyNode:
    """Belongs to the loop."""

    def __init__(
        self, address: Address, login: Login, lost: Callable[[ValkeyNode], None] = _nobody
    ) -> None:
        """`lost` is told when it cannot be connected. Raises StoreFault: it must not be."""
        if login.tls is None and not login.allow_clear and is_far(address):
            problem = "would be reached in the clear: set tls_ca or tls, or allow_clear"
            raise StoreFault(f"{address.target()} {problem}")
        self.address = address
        self._login = login
        self._lost = lost
        self._places = [_Place(self._opened) for _ in range(login.connections_max)]

    async def ask(self, request: Request) -> list[Reply]:
        """What they answer. Given up, nothing is placed any more. Raises StoreFault."""
        connection = await self.connection()
        exchange = connection.send(request.commands, request.sinks, hold=request.hold)
        try:
            # Shielded: an exchange ends by itself.
            return await asyncio.shield(exchange.finished)
        except asyncio.CancelledError:
            exchange.abandon()
            if request.if_given_up is not None:
                request.if_given_up(exchange.finished)
            raise

    async def connection(self) -> RespConnection:
        """The least busy one. Raises StoreFault."""
        place = min(self._places, key=lambda one: one.load)
        if place.connection is not None and place.connection.is_open:
            return place.connection
        return await place.opening.result()

    def open_connection(self) -> RespConnection | None:
        """The least busy one of those that are open."""
        places = [one for one in self._places if one.connection and one.connection.is_open]
        return min(places, key=lambda one: one.load).connection if places else None

    def close(self) -> None:
        for place in self._places:
            place.opening.close()
            if place.connection is not None:
                place.connection.close()

    async def _opened(self) -> RespConnection:
        login = self._login
        made = RespConnection(login.stall_s)
        where = self.address.target()
        replies: list[Reply] = []
        try:
            with anyio.fail_after(login.connect_s):
                await self._connect(made)
                replies = await made.send(login.commands()).finished
        except TimeoutError:
            raise ConnectionLost(f"{where}: no connection within {login.connect_s:g} s") from None
        except OSError as error:
            # Of TLS the reason; its text repeats what the peer sent.
            said = getattr(error, "reason", None) or error.strerror or type(error).__name__
            raise ConnectionLost(f"{where}: cannot be connected: {said}") from None
        finally:
            if not replies:
                made.close("it could not be opened")
                self._lost(self)
        for reply in replies:
            if isinstance(reply, RespError):
                made.close()
                is_login = reply.code in {"WRONGPASS", "NOAUTH", "NOPERM"} or "AUTH" in reply.text
                kind = LoginRefused if is_login else ConnectionLost
                raise kind(f"{where}: refused with {reply.code}")
        return made

    async def _connect(self, made: RespConnection) -> None:
        loop, address, tls = asyncio.get_running_loop(), self.address, self._login.tls
        if isinstance(address, UnixAddress):
            await loop.create_unix_connection(lambda: made, str(address.path))
        else:
            await loop.create_connection(lambda: made, address.host, address.port, ssl=tls)
