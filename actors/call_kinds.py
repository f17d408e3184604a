"""Which permission each of a node's calls needs, and which share places: neither engines' tools, nor operators, nor
probes can shut each other out.
"""

from __future__ import annotations

from penstock.actors.config import NodeConfig
from penstock.runtime.call_places import CallPlaces, Places
from penstock.runtime.identity import Needs, Permission

PERMISSIONS: Needs = {
    "/penstock.v1.Control": Permission.ADMIN,
    "/penstock.v1.Engine": Permission.ENGINE,
    "/penstock.v1.Engine/Health": None,
}
"""Of an identity that calls by TCP. Health checks and reflection are for every token."""


def call_places(config: NodeConfig) -> CallPlaces:
    """Of all the node's listening addresses together. Engine.Session keeps to `gateway.streams_max` by itself."""
    given = config.gateway
    probes = Places("health checks", given.probes_max, key="gateway.probes_max")
    reflections = Places(
        "reflection calls",
        given.reflections_max,
        key="gateway.reflections_max",
        silent_s=given.hello_within,
    )
    return CallPlaces(
        {
            "/penstock.v1.Engine/Session": None,
            "/penstock.v1.Engine/Health": probes,
            "/penstock.v1.Control": Places(
                "calls of Control", config.control.calls_max, key="control.calls_max"
            ),
            "/grpc.health.v1.Health": probes,
            "/grpc.health.v1.Health/Watch": Places(
                "watches", given.watches_max, key="gateway.watches_max"
            ),
            "/grpc.reflection.v1alpha.ServerReflection": reflections,
        },
        otherwise=Places("unary calls", given.unary_max, key="gateway.unary_max"),
    )
