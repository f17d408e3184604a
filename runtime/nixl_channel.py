"""Data channels over NIXL: RDMA where a plugin finds such a network, else what UCX has (TCP, shared memory).

    endpoint = NixlEndpoint(NixlOptions(), arena)
    connection = await endpoint.dial(offer, secret, within=5)

The whole arena is told to NIXL once. A peer that has a connection holds the key to all of it, and it is the peer's own
side that keeps its writes within what was granted: for nodes that are trusted as one trusts oneself, on a network that
is nobody else's.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets

from penstock.runtime import nixl_words as words
from penstock.runtime.channel import SECRET_BYTES, Accepted, ChannelKind, ChannelLost, Connection
from penstock.runtime.errors import StartFailed
from penstock.runtime.log import Log
from penstock.runtime.nixl_agent import NixlAgent, NixlFailed, NixlOptions
from penstock.runtime.nixl_connection import NixlConnection
from penstock.runtime.nixl_landings import region_of
from penstock.runtime.nixl_words import CONNECTION_BYTES, Heard, Unreadable, Word


class NixlEndpoint:
    """One node's end of all its NIXL channels. Belongs to the running loop. See `runtime.channel.Endpoint`."""

    kind = ChannelKind.NIXL

    def __init__(self, options: NixlOptions, memory: memoryview | None = None) -> None:
        """`memory` is told to NIXL once, and must stay until `aclose` has returned. Blocks for up to a second, while
        the library starts. Raises StartFailed."""
        self.strangers_refused = 0
        self._options = options
        self._region = None if memory is None else region_of(memory)
        self._agent = NixlAgent(options, self._region, self._hear)
        self._agent.start()
        self._places = asyncio.Semaphore(options.transfers_max)
        self._expected: dict[bytes, Accepted] = {}
        self._connections: dict[bytes, NixlConnection] = {}
        self._meeting: dict[bytes, asyncio.Task[None]] = {}  # known by its secret; no END yet
        self._replacing: asyncio.Task[None] | None = None  # of the agent
        self._is_closed = False
        self._log = Log("nixl_channel")

    def offer(self) -> bytes:
        """Empty while the agent is made anew."""
        if self._replacing is not None:
            return b""
        return words.offer_of(self._agent.metadata)

    def expect(self, secret: bytes, accepted: Accepted) -> None:
        self._expected[secret] = accepted

    def forget(self, secret: bytes) -> None:
        self._expected.pop(secret, None)

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> Connection:
        assert len(secret) == SECRET_BYTES, len(secret)
        connection: NixlConnection | None = None
        try:
            async with asyncio.timeout(within):
                peer = await self._agent.meet(words.metadata_of(offer))
                connection = self._new(peer, secrets.token_bytes(CONNECTION_BYTES))
                shown = words.show(connection.name, secret, self._agent.metadata)
                await self._agent.tell(peer, shown)
                await connection.taken.wait()
                taken, connection = connection, None
                return taken
        except TimeoutError:
            raise ChannelLost(f"no answer within {within:g} s") from None
        except (NixlFailed, Unreadable) as error:
            raise ChannelLost(f"{error}") from None
        finally:
            if connection is not None:
                connection.lose("the dial was given up")

    async def aclose(self) -> None:
        self._is_closed = True
        self._expected.clear()
        for task in list(self._meeting.values()):
            task.cancel()
        for connection in list(self._connections.values()):
            await connection.aclose()
        if self._replacing is not None:
            await asyncio.wait((self._replacing,))
        await self._agent.aclose()

    def _new(self, peer: str, name: bytes) -> NixlConnection:
        if self._is_closed:
            raise ChannelLost("this endpoint is closed")
        if self._replacing is not None:
            raise ChannelLost("the agent is being made anew")
        made = NixlConnection(
            self._agent,
            self._options,
            peer,
            name,
            places=self._places,
            give_up=self._give_up,
            when_over=self._connection_over,
        )
        self._connections[name] = made
        return made

    def _connection_over(self, connection: NixlConnection) -> None:
        self._connections.pop(connection.name, None)

    def _give_up(self, agent: NixlAgent, reason: str) -> None:
        """Make it anew: its end alone proves that a peer which hangs, or died in the middle, writes no more."""
        if agent is not self._agent or self._replacing is not None or self._is_closed:
            return
        self._log.warning("agent_made_anew", reason=reason, connections=len(self._connections))
        self._replacing = asyncio.get_running_loop().create_task(self._replace(agent))
        for connection in list(self._connections.values()):
            connection.lose(f"the agent is made anew: {reason}")

    async def _replace(self, agent: NixlAgent) -> None:
        await agent.aclose()
        made = NixlAgent(self._options, self._region, self._hear)
        try:
            await made.wait_started()
        except StartFailed as failed:
            self._log.error("agent_does_not_start", reason=str(failed))
            return  # this node has no such channel any more
        self._agent = made
        self._replacing = None

    # What agents say, some of them strangers.

    def _hear(self, agent: str, note: bytes) -> None:
        try:
            said = words.heard(note)
        except Unreadable:
            self._refuse(agent)
            return
        connection = self._connections.get(said.connection)
        if connection is not None and connection.peer == agent:
            connection.hear(said)
        elif said.word is Word.SHOW:
            self._hear_shown(agent, said)
        elif said.word is Word.END and (task := self._meeting.get(said.connection)) is not None:
            task.cancel()

    def _hear_shown(self, agent: str, said: Heard) -> None:
        known = [one for one in self._expected if hmac.compare_digest(one, said.secret)]
        is_there = said.connection in self._connections or said.connection in self._meeting
        if not known or is_there:
            self._refuse(agent)
            return
        accepted = self._expected.pop(known[0])
        task = asyncio.get_running_loop().create_task(self._meet(agent, said, accepted))
        self._meeting[said.connection] = task
        task.add_done_callback(lambda _: self._meeting.pop(said.connection, None))

    async def _meet(self, agent: str, said: Heard, accepted: Accepted) -> None:
        try:
            name = await self._agent.meet(said.metadata)
            if name != agent:
                self._refuse(agent)
                return
            connection = self._new(agent, said.connection)
            connection.taken.set()
            accepted(connection)
            await self._agent.tell(agent, words.say(Word.TAKEN, said.connection))
        except (NixlFailed, ChannelLost) as error:
            self._log.warning("dialer_lost", agent=agent, reason=str(error))

    def _refuse(self, agent: str) -> None:
        self.strangers_refused += 1
        self._log.warning_once("stranger_refused", agent=agent)
