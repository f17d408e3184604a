"""What a node has more that is one of several: the only file that knows all actors of a cluster.

node
 |- ...                  all that a node has that stands alone
 |- directory            who has what
 |- pd_sender            pushes what engines here prefill
 |- pd_receiver          takes in what other nodes push
 |- peer_server          what peers ask here
 '- peers                links to all members

What is imported here when it is loaded is little: a node without `cluster` loads nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from penstock.actors.api.directory import Directory
from penstock.actors.api.pd import PdReceiver, PdSender
from penstock.actors.api.peers import Peers, Reach, StreamHandler
from penstock.actors.config import NodeConfig
from penstock.actors.engine_pd import Pushes
from penstock.actors.pd_config import PdConfig
from penstock.actors.stores.opening import AnyStoreConfig
from penstock.actors.stores.peer_config import PeerStoreConfig
from penstock.runtime.ref import Ref

if TYPE_CHECKING:
    from penstock.actors.api.control import Control
    from penstock.actors.api.gateway import Gateway
    from penstock.actors.api.l1 import L1Manager
    from penstock.actors.api.prefetch import Prefetcher
    from penstock.actors.api.types import Epoch, Memory
    from penstock.actors.fleet import Fleet
    from penstock.runtime.membership import Member
    from penstock.runtime.peer_transport import PeerDoor
    from penstock.runtime.supervisor import Supervisor
    from penstock.runtime.telemetry import Telemetry

PEER_STORE = "peers"


def _pushes(config: PdConfig | None, messages_max: int) -> Pushes | None:
    """Whom engines ask of pushes."""
    if config is None:
        return None
    sender = Ref.to(PdSender, "pd_sender", messages_max=messages_max)
    receiver = Ref.to(PdReceiver, "pd_receiver", messages_max=messages_max)
    return Pushes(sender, receiver if config.receive else None, config.transfer)


def clustered(config: NodeConfig) -> NodeConfig:
    """With a store of what peers have, before all others, if it is one of several and none is listed."""
    if config.cluster is None or any(isinstance(one, PeerStoreConfig) for one in config.stores):
        return config
    stores: tuple[AnyStoreConfig, ...] = (PeerStoreConfig(name=PEER_STORE), *config.stores)
    return msgspec.structs.replace(config, stores=stores)


@dataclass(frozen=True, slots=True)
class Surrounding:
    """What of the node its cluster's actors are given."""

    config: NodeConfig
    epoch: Epoch
    telemetry: Telemetry
    manager: Ref[L1Manager]
    operator: Ref[Control]


class Cluster:
    """The cluster's side of one node. Of a node that stands alone it has nothing, and starts nothing."""

    def __init__(self, around: Surrounding, loads: tuple[Ref[Gateway], Ref[Prefetcher]]) -> None:
        """`loads`: who hears of tickets, and who fetches for them."""
        self.directory: Ref[Directory] | None = None
        self.peers: Ref[Peers] | None = None
        self.reach: Reach | None = None
        self.pushes: Pushes | None = None
        self.fleet: Fleet | None = None
        self.address = ""  # that peers reach it at, once it is served
        self._around = around
        self._loads = loads
        self._streams: dict[str, StreamHandler] = {}
        config = around.config.cluster
        if config is not None:
            messages_max = config.directory.messages_max
            self.directory = Ref.to(Directory, "directory", messages_max=messages_max)
            self.peers = Ref.to(Peers, "peers", messages_max=around.config.mailbox_max)
            self.reach = Reach(self.directory, self.peers, around.telemetry)
            self.pushes = _pushes(config.pd, around.config.mailbox_max)
            self.fleet = self._fleet(config.node_id, self.reach)

    def _fleet(self, node_id: str, reach: Reach) -> Fleet:
        """Who asks all nodes for whoever operates them; and what they ask here is served."""
        from penstock.actors.fleet import Fleet
        from penstock.actors.fleet_calls import fleet_handlers
        from penstock.actors.fleet_desk import DeskLimits, FleetDesk
        from penstock.actors.fleet_pins import Fetchers, PinLimits, Pins

        around, config = self._around, self._around.config
        assert config.cluster is not None
        given, load_s = config.cluster.pins, config.prefetch.load_within
        pins = Pins(
            around.manager,
            Fetchers(*self._loads),
            PinLimits(given.pins_max, given.within, given.bytes_max, load_s, config.ask_within),
        )
        limits = DeskLimits(config.gateway.chunks_max, config.l1.bytes, config.ask_within)
        desk = FleetDesk(around.manager, around.operator, self.pushes, pins, limits=limits)
        operators = config.cluster.operators
        self.serve_streams(fleet_handlers(desk, within_s=config.ask_within, operators=operators))
        return Fleet(node_id, reach, desk, chunks_max=limits.chunks_max, ask_s=config.ask_within)

    def serve_streams(self, streams: Mapping[str, StreamHandler]) -> None:
        """Further methods for peers, before `start`."""
        self._streams.update(streams)

    async def start(self, supervisor: Supervisor, memory: Memory) -> None:
        """All its children. Raises ConfigError, StartFailed."""
        config = self._around.config.cluster
        if config is None or self.reach is None:
            return
        from penstock.actors.node_peers import PeerParts

        if config.pd is not None and self.pushes is not None:
            from penstock.actors.node_pd import PdParts

            pd_parts = PdParts(config.pd, self._around, self.pushes, self.reach.peers, memory)
            self.serve_streams(pd_parts.streams())
            for child in pd_parts.children():
                await supervisor.start(child)
        parts = PeerParts(config, self._around, self.reach, memory)
        await supervisor.start(parts.directory_child())
        await supervisor.start(await parts.server_child(self._streams, self._bound))
        await supervisor.start(parts.peers_child(self._me))

    def _bound(self, door: PeerDoor) -> None:
        config = self._around.config.cluster
        assert config is not None
        self.address = config.advertise or door.address.target()
        door.watch(self._around.telemetry)

    def _me(self) -> Member:
        from penstock.runtime.membership import Member

        config = self._around.config.cluster
        assert config is not None
        return Member(config.node_id, self.address, self._around.epoch)
