"""Members by DNS: a name that resolves to the addresses of all nodes, as that of a headless service does.

An address says nothing of who is there: that is read from the certificate shown in a handshake, which tells the name
that peers are dialled by.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
from anyio import CapacityLimiter
from anyio.streams.tls import TLSAttribute

from penstock.runtime.certificates import Certificates
from penstock.runtime.errors import mapped
from penstock.runtime.log import Log
from penstock.runtime.membership import Member, MembershipFailed, Roll, running
from penstock.runtime.membership_config import NODE_ID, DnsConfig
from penstock.runtime.security import TcpAddress, parse_address

Resolve: TypeAlias = Callable[[str, int], Awaitable[Iterable[str]]]
"""From a name and a port to "host:port"s. Raises MembershipFailed."""
Identify: TypeAlias = Callable[[str], Awaitable[str]]
"""From "host:port" to the id of the node there. Raises MembershipFailed."""


class DnsMembership(Roll):
    """See `Membership`."""

    def __init__(
        self, config: DnsConfig, my_id: str, *, resolve: Resolve, identify: Identify
    ) -> None:
        super().__init__(my_id, members_max=config.members_max)
        self._config = config
        self._resolve = resolve
        self._identify = identify
        self._ids: dict[str, tuple[str, float]] = {}  # by address; until when it counts
        self._places = CapacityLimiter(config.identify_max)
        self._log = Log("membership")

    async def announce(self, me: Member) -> None:
        """Whoever runs the name knows."""

    async def aclose(self) -> None:
        """The name is not ours."""

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            try:
                with mapped({TimeoutError: self._late}), anyio.fail_after(self._config.within):
                    found = await self._resolve(self._config.name, self._config.port)
            except MembershipFailed as failed:
                self.degrade(f"{failed}; going on with the members last known")
                self._log.warning_once("name_not_resolved", str(failed), reason=str(failed))
            else:
                await self._meet(list(found)[: 2 * self._config.members_max])
            await anyio.sleep(self._config.every)

    def _late(self, _: str) -> MembershipFailed:
        return MembershipFailed(
            f"{self._config.name}: no answer of DNS within {self._config.within:g} s"
        )

    async def _meet(self, addresses: list[str]) -> None:
        """These are the addresses now: find out who is at those not known."""
        self._ids = {one: known for one, known in self._ids.items() if one in addresses}
        self._publish()
        now = anyio.current_time()
        unknown: list[str] = []
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                if address not in self._ids or self._ids[address][1] <= now:
                    tasks.start_soon(self._learn, address, unknown)
        self.degrade(
            f"{len(unknown)} of {len(addresses)} addresses of {self._config.name} show no certificate"
            f" of a node, such as {min(unknown)}"
            if unknown
            else ""
        )

    async def _learn(self, address: str, unknown: list[str]) -> None:
        async with self._places:
            try:
                node_id = await self._identify(address)
            except MembershipFailed as failed:
                self._log.info_once("address_not_identified", address, reason=str(failed))
                if address not in self._ids:
                    unknown.append(address)
                return
        until = anyio.current_time() + self._config.identify_again
        self._ids[address] = (node_id, until)
        self._publish()

    def _publish(self) -> None:
        members: dict[str, Member] = {}
        for address in sorted(self._ids, reverse=True):  # of several of one node, the first
            node_id = self._ids[address][0]
            members[node_id] = Member(node_id, address)
        left_out = self.know(members)
        if left_out:
            self._log.warning_once("members_left_out", count=left_out, key="members_max")


def system_resolver() -> Resolve:
    """That of the system, on one thread of its own: a question that hangs keeps the next one waiting, and no more."""
    thread = CapacityLimiter(1)

    async def resolve(name: str, port: int) -> list[str]:
        def ask() -> list[str]:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            return sorted({TcpAddress(str(one[4][0]), port).target() for one in found})

        def failed(words: str) -> MembershipFailed:
            return MembershipFailed(f"{name}: {words}")

        with mapped({OSError: failed, UnicodeError: failed}):
            return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=thread)

    return resolve


def by_certificate(certificates: Certificates, within_s: float) -> Identify:
    """Who is at an address, by a handshake: the first DNS name of a certificate of our authority."""

    async def identify(address: str) -> str:
        place = parse_address(address)
        assert isinstance(place, TcpAddress), place

        def failed(words: str) -> MembershipFailed:
            return MembershipFailed(f"{address}: {words}")

        bundle = await anyio.to_thread.run_sync(certificates.current)
        foreign = (
            OSError,
            ssl.SSLError,
            TimeoutError,
            anyio.EndOfStream,
            anyio.BrokenResourceError,
        )
        with mapped(dict.fromkeys(foreign, failed)), anyio.fail_after(within_s):
            stream = await anyio.connect_tcp(
                place.host, place.port, ssl_context=bundle.client, tls_standard_compatible=False
            )
            try:
                shown: Any = stream.extra(TLSAttribute.peer_certificate)
            finally:
                await anyio.aclose_forcefully(stream)
        for kind, name in (shown or {}).get("subjectAltName", ()):
            if kind == "DNS" and NODE_ID.fullmatch(str(name)):
                return str(name)
        raise failed("its certificate names no node")

    return identify


@asynccontextmanager
async def dns_membership(
    config: DnsConfig, my_id: str, *, resolve: Resolve, identify: Identify
) -> AsyncIterator[DnsMembership]:
    membership = DnsMembership(config, my_id, resolve=resolve, identify=identify)
    async with running(membership.run(), membership):
        yield membership
