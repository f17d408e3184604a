"""Which server a key is on: one server, or a cluster that moves slots about and says so."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import replace

import anyio

from penstock.actors.stores.resp_words import Reply, RespError, command
from penstock.actors.stores.store import StoreFault
from penstock.actors.stores.valkey_node import Login, LoginRefused, Request, ValkeyNode
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import Address, TcpAddress, parse_address

SLOTS = 16384
REDIRECTIONS_MAX = 5
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
        self._learning = anyio.Lock()

    async def prepare(self) -> None:
        """Learn who has which keys. Raises StoreFault."""
        async with self._learning:
            await self._ask_around()

    async def _ask_around(self) -> None:
        trouble: StoreFault | None = None
        known = [*self._nodes.values()]
        for node in [*known, *(self._node_at(seed) for seed in self._seeds)]:
            try:
                reply = (await node.ask(Request([command("CLUSTER", "SLOTS")])))[0]
            except LoginRefused:
                raise
            except StoreFault as fault:
                trouble = fault
                continue
            if isinstance(reply, RespError):
                raise Refusal(node.address.target(), reply.code)
            self._learn(reply, node)
            return
        raise trouble or StoreFault("no server of the cluster is known")

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
            async with self._learning:
                if self.known(key) is None:
                    await self._ask_around()
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
            self._nodes[name] = ValkeyNode(address, self._login)
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
