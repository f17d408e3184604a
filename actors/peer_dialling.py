"""Dialling one node: from its address to a link with a data connection, and on to the link's end.

reached -> challenged -> welcomed -> data connection -> linked -> lost
   '-----------'------------'--------------'--> refused, late, unreachable: in words
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import anyio
import grpc
from anyio import create_task_group

from penstock.actors.core.link_session import DialerSession, Stage
from penstock.actors.core.link_words import NONCE_BYTES, Lives, Me, Over, Refusal
from penstock.actors.peer_channels import PeerChannels
from penstock.actors.peer_codec import (
    NotOurs,
    beat_request,
    hello_request,
    read_reply,
    welcome_of,
)
from penstock.actors.peer_link import DialledLink
from penstock.actors.peer_services import LINK_METADATA, SERVICE
from penstock.actors.peer_talk import Talk
from penstock.runtime.certificates import Certificates
from penstock.runtime.channel import Connection
from penstock.runtime.errors import PenstockError
from penstock.runtime.hazard import hazard
from penstock.runtime.membership import Member
from penstock.runtime.peer_transport import PeerLimits, dial_peer, why_unreachable

CLOSE_S = 2.0  # to let go of a connection; then its holds keep what it may still touch


@dataclass(frozen=True, slots=True)
class DialTools:
    me: Me
    lives: Lives
    certificates: Certificates | None
    limits: PeerLimits
    channels: PeerChannels
    within_s: float  # from the dial to the link


class Dialling:
    """One dial of one member."""

    def __init__(self, tools: DialTools, member: Member) -> None:
        self.link: DialledLink | None = None  # set once there is one
        self._tools = tools
        self._member = member
        now = asyncio.get_running_loop().time()
        self.session = DialerSession(
            tools.me,
            member.node_id,
            os.urandom(NONCE_BYTES),
            tools.channels.offered(),
            tools.lives,
            now=now,
            within_s=tools.within_s,
        )
        self._settled = asyncio.Event()  # linked, or over
        self._talk: Talk | None = None

    def end(self, refusal: Refusal, reason: str) -> None:
        if self._talk is not None:
            self._talk.end(refusal, reason)

    async def run(self, linked: Callable[[DialledLink], Coroutine[Any, Any, None]]) -> Over:
        """To its end. `linked` goes on beside the link, and is cancelled with it. Raises ConfigError."""
        tools, member = self._tools, self._member
        async with _Channel(tools, member) as control, _Channel(tools, member) as data:
            call: Any = control.stream_stream(f"{SERVICE}/Link")()
            stream = _LinkStream(call, member)
            self._talk = Talk(
                self.session,
                read=stream.read,
                write=stream.write,
                heard=self._heard,
                beat=beat_request,
            )
            try:
                async with create_task_group() as tasks:
                    tasks.start_soon(self._run_talk, self._talk, name="talk")
                    await self._settled.wait()
                    if self.session.stage is Stage.LINKED:
                        await self._link(control, data, linked)
                        tasks.cancel_scope.cancel()
            finally:
                call.cancel()
        assert self.session.over is not None
        return self.session.over

    async def _run_talk(self, talk: Talk) -> None:
        over = Over(Refusal.ENDED, "this node has ended it")
        try:
            over = await talk.run()
        finally:
            self.session.end(over.refusal, over.reason)
            if self.link is not None:
                self.link.lose(over.reason)
            self._settled.set()

    async def _link(
        self,
        control: grpc.aio.Channel,
        data: grpc.aio.Channel,
        linked: Callable[[DialledLink], Coroutine[Any, Any, None]],
    ) -> None:
        welcome = self.session.welcome
        assert welcome is not None
        connection: Connection | None = None
        try:
            connection = await self._tools.channels.connect(
                data,
                ((LINK_METADATA, welcome.link_id),),
                welcome.channels,
                welcome.secret,
                within_s=self._tools.within_s,
            )
            await hazard("peers.before_link")
            most = min(welcome.limits.message_bytes_max, self._tools.limits.message_bytes_max)
            limits = replace(welcome.limits, message_bytes_max=most)
            welcome = replace(welcome, limits=limits)
            link = self.link = DialledLink(self._member.node_id, welcome, control, connection)
            if self.session.over is not None:
                link.lose(self.session.over.reason)
                return
            async with create_task_group() as beside:
                beside.start_soon(linked, link, name="linked")
                beside.start_soon(self._watch_connection, connection, name="watch connection")
                await link.wait_lost()
                beside.cancel_scope.cancel()
        except PenstockError as refusal:
            self.end(Refusal.ENDED, f"no data connection: {refusal}")
        finally:
            if self.link is not None:
                self.link.lose("this node has ended it")
            if connection is not None:
                with anyio.move_on_after(CLOSE_S, shield=True):
                    await connection.aclose()

    async def _watch_connection(self, connection: Connection) -> None:
        why = await connection.wait_lost()
        self.end(Refusal.ENDED, f"its data connection is lost: {why}")

    def _heard(self, raw: bytes) -> None:
        assert self._talk is not None
        reply = read_reply(raw)
        now = asyncio.get_running_loop().time()
        match reply.WhichOneof("body"):
            case "challenge":
                hello = self.session.challenge(reply.challenge.nonce)
                if hello is not None:
                    self._talk.say(hello_request(hello))
            case "welcome":
                self.session.welcomed(welcome_of(reply.welcome), now)
                self._settled.set()
            case "heartbeat":
                self.session.heartbeat(reply.heartbeat.number, now)
            case "refused":
                self.session.end(Refusal.TOLD, reply.refused.reason)
            case _:
                raise NotOurs("a message of another release")


class _Channel:
    """To one member, while it is entered."""

    def __init__(self, tools: DialTools, member: Member) -> None:
        self._tools = tools
        self._member = member
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> grpc.aio.Channel:
        member, tools = self._member, self._tools
        self._channel = await dial_peer(
            member.address, member.node_id, tools.certificates, tools.limits
        )
        return self._channel

    async def __aexit__(self, *_: object) -> None:
        assert self._channel is not None
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._channel.close()


class _LinkStream:
    """The link's own call."""

    def __init__(self, call: Any, member: Member) -> None:
        self._call = call
        self._member = member

    async def read(self) -> bytes | None:
        try:
            raw = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise why_unreachable(error, self._member.node_id, self._member.address) from None
        return raw if isinstance(raw, bytes) else None

    async def write(self, data: bytes) -> None:
        try:
            await self._call.write(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await anyio.sleep_forever()  # the reader hears why
