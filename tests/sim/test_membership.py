"""Members by a list, and by DNS: a name that fails, or an address that does not answer, takes nobody away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio
import pytest

from penstock.runtime.dns_membership import DnsMembership, dns_membership
from penstock.runtime.membership import Member, Membership, MembershipFailed
from penstock.runtime.membership_config import DnsConfig, PeerConfig, StaticConfig
from penstock.runtime.membership_opening import open_membership
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import Seconds


class Cluster:
    """A name, and who is behind its addresses."""

    def __init__(self) -> None:
        self.addresses: list[str] | None = []  # None: the name fails
        self.ids: dict[str, str] = {}  # an address without one does not answer
        self.identified = 0
        self.at_once = 0
        self.at_once_max = 0
        self.hangs = False

    async def resolve(self, name: str, port: int) -> Iterable[str]:
        if self.hangs:
            await anyio.sleep_forever()
        if self.addresses is None:
            raise MembershipFailed(f"{name}: no such name")
        return [f"{one}:{port}" for one in self.addresses]

    async def identify(self, address: str) -> str:
        self.identified += 1
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            await anyio.sleep(0.01)
        finally:
            self.at_once -= 1
        host = address.rpartition(":")[0]
        if host not in self.ids:
            raise MembershipFailed(f"{address}: connection refused")
        return self.ids[host]


@asynccontextmanager
async def following(cluster: Cluster, **changed: object) -> AsyncIterator[DnsMembership]:
    given = {"name": "penstock.svc", "port": 7700, "every": Seconds(5), "within": Seconds(3)}
    config = DnsConfig(**{**given, **changed})  # type: ignore[arg-type]
    async with dns_membership(
        config, "a", resolve=cluster.resolve, identify=cluster.identify
    ) as membership:
        await anyio.sleep(1)
        yield membership


def names(membership: Membership) -> dict[str, str]:
    return {one.node_id: one.address for one in membership.members}


def test_a_list_is_what_it_says_without_this_node() -> None:
    async def scenario() -> None:
        peers = tuple(PeerConfig(id=one, address=f"{one}:7700") for one in "cab")
        async with open_membership(StaticConfig(peers=peers), "a", None) as membership:
            await membership.announce(Member("a", "a:7700"))
            assert membership.members == (Member("b", "b:7700"), Member("c", "c:7700"))
            assert await membership.wait_changed(0) > 0
            assert membership.degraded == ""

    simulate(1, scenario)


def test_nodes_come_and_go_with_the_name_and_are_called_by_their_certificates() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.addresses = ["10.0.0.1", "10.0.0.2"]
        cluster.ids = {"10.0.0.1": "a", "10.0.0.2": "b", "10.0.0.3": "c"}
        async with following(cluster) as membership:
            assert names(membership) == {"b": "10.0.0.2:7700"}
            seen = await membership.wait_changed(0)
            cluster.addresses.append("10.0.0.3")
            await membership.wait_changed(seen)
            assert names(membership) == {"b": "10.0.0.2:7700", "c": "10.0.0.3:7700"}
            cluster.addresses.remove("10.0.0.2")
            await anyio.sleep(6)
            assert names(membership) == {"c": "10.0.0.3:7700"}
            assert cluster.identified == 3  # each once

    simulate(1, scenario)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_name_that_fails_takes_nobody_away(hangs: bool) -> None:
    """C7. Seen to fail with an empty list taken from a name that failed."""

    async def scenario() -> None:
        cluster = Cluster()
        cluster.addresses, cluster.ids = ["10.0.0.2"], {"10.0.0.2": "b"}
        async with following(cluster) as membership:
            cluster.hangs, cluster.addresses = hangs, None
            await anyio.sleep(3600)
            assert names(membership) == {"b": "10.0.0.2:7700"}
            said = "no answer of DNS within 3 s" if hangs else "no such name"
            assert said in membership.degraded
            assert "going on with the members last known" in membership.degraded
            cluster.hangs, cluster.addresses = False, ["10.0.0.2"]
            await anyio.sleep(10)
            assert membership.degraded == ""

    simulate(1, scenario)


def test_an_address_that_answers_nothing_is_told_and_one_that_is_known_stays() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.addresses, cluster.ids = ["10.0.0.2", "10.0.0.3"], {"10.0.0.2": "b"}
        async with following(cluster) as membership:
            assert names(membership) == {"b": "10.0.0.2:7700"}
            assert "1 of 2 addresses of penstock.svc" in membership.degraded
            assert "10.0.0.3:7700" in membership.degraded
            del cluster.ids["10.0.0.2"]  # too busy for a handshake, when it is looked at again
            cluster.ids["10.0.0.3"] = "c"
            await anyio.sleep(120)
            assert names(membership) == {"b": "10.0.0.2:7700", "c": "10.0.0.3:7700"}
            assert membership.degraded == ""

    simulate(1, scenario)


def test_an_address_that_was_given_on_is_another_node_when_it_is_looked_at_again() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.addresses, cluster.ids = ["10.0.0.2"], {"10.0.0.2": "b"}
        async with following(cluster) as membership:
            cluster.ids["10.0.0.2"] = "c"
            await anyio.sleep(70)
            assert names(membership) == {"c": "10.0.0.2:7700"}

    simulate(1, scenario)


def test_a_large_cluster_is_met_in_bounded_steps() -> None:
    """C10. Seen to fail with a limiter of a thousand."""

    async def scenario() -> None:
        cluster = Cluster()
        cluster.addresses = [f"10.0.1.{one}" for one in range(100)]
        cluster.ids = {one: f"n{position:03}" for position, one in enumerate(cluster.addresses)}
        async with following(cluster, identify_max=4, members_max=64) as membership:
            assert cluster.at_once_max == 4
            assert len(membership.members) == 64
            assert membership.members[0].node_id == "n000"

    simulate(1, scenario)


def test_a_bug_of_a_source_is_not_silent() -> None:
    """B12: whoever follows the members hears of it. Seen to fail with the task's exception never looked at."""

    async def scenario() -> None:
        cluster = Cluster()

        async def broken(address: str) -> str:
            raise ZeroDivisionError

        cluster.identify = broken  # type: ignore[method-assign]
        cluster.addresses = ["10.0.0.2"]
        with pytest.raises(ExceptionGroup):
            async with following(cluster) as membership:
                seen = 0
                while True:
                    seen = await membership.wait_changed(seen)

    simulate(1, scenario)
