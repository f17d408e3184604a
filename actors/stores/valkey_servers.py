"""Which server a key is on: one server, or a cluster that moves slots about and says so."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import replace

import anyio

from penstock.actors.stores.resp_words import Reply, RespError, command
from penstock.actors.stores.store import StoreFault
from penstock.actors.stores.valkey_node import Login, LoginRefused, Request, ValkeyNode
from penstock.runtime.background import Background
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import Address, TcpAddress, parse_address

SLOTS = 16384
REDIRECTIONS_MAX = 5
NODES_MAX = 1024  # a cluster is to have at most 1000, says its specification
ASKING = command("ASKING")


def slot_of(key: bytes) -> int:
    """Of a key without a hash tag: CRC-16/XMODEM, as the cluster specification says."""
    return binascii.crc_hqx(key, 0) % SLOTS


class Refusal(StoreFault):
    """Theirs: the server answered with an error. `code` is its first word."""

    def __init__(self, where: str, code: str) -> None:
        super().__init__(f"{where}: refused with {code}")
        self.code = code


class OneServer:
    """All keys are on it."""

    def __init__(self, address: Address, login: Login) -> None:
        self._node = ValkeyNode(address, login)

    async def prepare(self) -> None:
        """Raises StoreFault."""
        await self._node.connection()

    async def node(self, key: bytes) -> ValkeyNode:
        return self._node

    async def learn(self) -> None:
        """There is nothing to learn."""

    def known(self, key: bytes) -> ValkeyNode | None:
        """As far as it is known without asking."""
        return self._node

    def lost(self, node: ValkeyNode) -> None:
        """It could not be reached. There is no other."""

    async def ask(self, key: bytes, request: Request) -> list[Reply]:
        """Commands on this key. Raises StoreFault."""
        replies = await self._node.ask(request)
        _check_redirection(replies, self._node)
        return replies

    def close(self) -> None:
        self._node.close()


class Cluster:
    """The keys are on many. What is known of it is learned anew when a server cannot be reached."""

    def __init__(self, seeds: Sequence[Address], login: Login) -> None:
        self._seeds = seeds
        self._login = login
        self._nodes: dict[str, ValkeyNode] = {}  # by address
        self._slots: list[ValkeyNode | None] = [None] * SLOTS
        self._learning = Background(self._ask_around, StoreFault)

    async def prepare(self) -> None:
        """Raises StoreFault."""
        await self.learn()

    async def learn(self) -> None:
        """Who has which keys. Given up, it goes on: a deadline may be shorter than it takes. Raises StoreFault."""
        await self._learning.result()

    async def _ask_around(self) -> None:
        """All that may know, side by side: who is dead keeps nobody waiting. The first map counts."""
        troubles: list[StoreFault] = []
        asked = {id(node): node for node in self._nodes.values()}
        for seed in self._seeds:
            node = self._node_at(seed)
            asked[id(node)] = node
        is_learned = False
        async with anyio.create_task_group() as group:

            async def ask(node: ValkeyNode) -> None:
                nonlocal is_learned
                try:
                    reply = (await node.ask(Request([command("CLUSTER", "SLOTS")])))[0]
                    if isinstance(reply, RespError):
                        raise Refusal(node.address.target(), reply.code)
                    if not is_learned:
                        self._learn(reply, node)
                        is_learned = True
                        group.cancel_scope.cancel()
                except StoreFault as fault:
                    troubles.append(fault)

            for node in asked.values():
                group.start_soon(ask, node)
        if not is_learned:
            refused = [one for one in troubles if isinstance(one, LoginRefused)]
            raise [*refused, *troubles][0]

    def known(self, key: bytes) -> ValkeyNode | None:
        """As far as it is known without asking."""
        return self._slots[slot_of(key)]

    def lost(self, node: ValkeyNode) -> None:
        """It could not be reached. Another may have taken over: it is learned when it is needed."""
        self._slots = [None if one is node else one for one in self._slots]

    async def node(self, key: bytes) -> ValkeyNode:
        """Raises StoreFault."""
        node = self.known(key)
        if node is None:
            await self.learn()
            node = self.known(key)
        if node is None:
            raise StoreFault(f"the cluster has no server for slot {slot_of(key)}")
        return node

    async def ask(self, key: bytes, request: Request) -> list[Reply]:
        """Commands on this key, sent on to where the servers say it is. Raises StoreFault."""
        node = await self.node(key)
        sent, step = request, 1
        for _ in range(REDIRECTIONS_MAX):
            try:
                replies = (await node.ask(sent))[step - 1 :: step]
            except StoreFault:
                self.lost(node)
                raise
            error = _redirection(replies)
            if error is None:
                return replies
            node = self._redirected(error, node)
            sent, step = (_asking(request), 2) if error.code == "ASK" else (request, 1)
        raise StoreFault(f"the cluster sends on after {REDIRECTIONS_MAX} servers")

    def close(self) -> None:
        self._learning.close()
        for node in self._nodes.values():
            node.close()

    def _redirected(self, error: RespError, node: ValkeyNode) -> ValkeyNode:
        words = error.text.split(" ")
        if len(words) < 3 or not words[1].isdigit() or int(words[1]) >= SLOTS:
            raise Refusal(node.address.target(), error.code)
        # Without a host it is that of who answers.
        host, _, port = words[2].rpartition(":")
        there = self._node_at(_address(host, port, node))
        if error.code == "MOVED":
            self._slots[int(words[1])] = there
        return there

    def _learn(self, reply: Reply, told_by: ValkeyNode) -> None:
        slots: list[ValkeyNode | None] = [None] * SLOTS
        rows = reply if isinstance(reply, list) else []
        for row in rows:
            match row:
                case [int(first), int(last), [host, int(port), *_], *_] if (
                    0 <= first <= last < SLOTS
                ):
                    name = host.decode() if isinstance(host, bytes) else ""
                    node = self._node_at(_address(name, str(port), told_by))
                    slots[first : last + 1] = [node] * (last + 1 - first)
                case _:
                    raise StoreFault(f"{told_by.address.target()}: its map of slots is no map")
        for address in [*self._nodes]:
            if self._nodes[address] not in slots:
                self._nodes.pop(address).close()
        self._slots = slots

    def _node_at(self, address: Address) -> ValkeyNode:
        name = address.target()
        if name not in self._nodes:
            if len(self._nodes) >= NODES_MAX:
                raise StoreFault(f"the cluster names more than {NODES_MAX} servers")
            self._nodes[name] = ValkeyNode(address, self._login, self.lost)
        return self._nodes[name]


Servers = OneServer | Cluster


def _address(host: str, port: str, told_by: ValkeyNode) -> Address:
    if not host or host == "?":
        if isinstance(told_by.address, TcpAddress):
            host = told_by.address.host
        else:
            raise StoreFault("a cluster that does not tell addresses is reached by TCP")
    try:
        return parse_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ConfigError as error:
        raise StoreFault(f"the cluster names no address: {error.problem}") from None


def _asking(request: Request) -> Request:
    """The same of a server that has the slot only for who knows."""
    sinks = [*request.sinks, *[None] * (len(request.commands) - len(request.sinks))]
    return replace(
        request,
        commands=[one for command_ in request.commands for one in (ASKING, command_)],
        sinks=[one for sink in sinks for one in (None, sink)],
    )


def _redirection(replies: Sequence[Reply]) -> RespError | None:
    errors = (one for one in replies if isinstance(one, RespError))
    return next((one for one in errors if one.code in {"MOVED", "ASK"}), None)


def _check_redirection(replies: Sequence[Reply], node: ValkeyNode) -> None:
    error = _redirection(replies)
    if error is not None:
        raise Refusal(f"{node.address.target()} is of a cluster: write mode: cluster", error.code)
