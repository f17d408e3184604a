"""From a node's configuration to those who push to other nodes, and take in what they push."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from penstock.actors.api.pd import PdReceiver, PdSender
from penstock.actors.api.peers import Peers, StreamHandler
from penstock.actors.api.types import Memory
from penstock.actors.engine_pd import Pushes
from penstock.actors.pd_config import PdConfig
from penstock.actors.pd_receiver import PdReceiver as PdReceiverActor
from penstock.actors.pd_sender import PdSender as PdSenderActor
from penstock.actors.pd_services import METHOD, transfer_handler
from penstock.actors.stores.digests import Digester
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec

if TYPE_CHECKING:
    from penstock.actors.node_cluster import Surrounding

RESTARTS_MAX = 10  # of one of them in a minute; beyond, the node stops


class PdParts:
    """Of one node."""

    def __init__(
        self,
        config: PdConfig,
        around: Surrounding,
        pushes: Pushes,
        peers: Ref[Peers],
        memory: Memory,
    ) -> None:
        self._config = config
        self._around = around
        self._pushes = pushes
        self._peers = peers
        self._memory = memory
        self._digester = Digester()

    def streams(self) -> Mapping[str, StreamHandler]:
        """What peers may call. A node that only sends offers nothing."""
        if self._pushes.receiver is None:
            return {}
        within_s = self._around.config.ask_within
        return {METHOD: transfer_handler(self._pushes.receiver, within_s=within_s)}

    def children(self) -> Iterator[ChildSpec[Any]]:
        """Their actors."""
        yield ChildSpec(self._pushes.sender, self._sender, restarts_max=RESTARTS_MAX)
        if self._pushes.receiver is not None:
            yield ChildSpec(self._pushes.receiver, self._receiver, restarts_max=RESTARTS_MAX)

    def _sender(self) -> PdSender:
        return PdSenderActor(
            self._config,
            ref=self._pushes.sender,
            ask_s=self._around.config.ask_within,
            manager=self._around.manager,
            peers=self._peers,
            memory=self._memory,
            telemetry=self._around.telemetry,
        )

    def _receiver(self) -> PdReceiver:
        return PdReceiverActor(
            self._config,
            epoch=self._around.epoch,
            ask_s=self._around.config.ask_within,
            manager=self._around.manager,
            memory=self._memory,
            digester=self._digester,
            telemetry=self._around.telemetry,
        )
