"""How long the gateway is waited for when the node stops, by its configuration."""

from __future__ import annotations

import pytest

from penstock.actors.api import gateway
from penstock.actors.config import GatewayConfig, ListenConfig, NodeConfig
from penstock.actors.node_settings import gateway_spec
from penstock.runtime.ref import Ref
from penstock.runtime.units import Seconds


@pytest.mark.parametrize(("stop_within_s", "addresses"), [(2, 1), (60, 1), (60, 3)])
def test_the_gateway_is_left_behind_no_sooner_than_its_streams_may_take(
    stop_within_s: float, addresses: int
) -> None:
    """Streams that are open get `gateway.stop_within`, at each address.

    Seen to fail with the supervisor's own bound: from 35 s on the node stopped without its gateway.
    """

    def make() -> gateway.Gateway:
        raise AssertionError

    given = GatewayConfig(listen=(ListenConfig(),) * addresses, stop_within=Seconds(stop_within_s))
    spec = gateway_spec(
        NodeConfig(gateway=given), Ref.to(gateway.Gateway, "gateway", messages_max=1), make
    )
    assert spec.end_s == stop_within_s * addresses + 30
