"""Peers in metrics: what is read from each, and what each reads here. By node id."""

from __future__ import annotations

from collections.abc import Callable

from penstock.runtime.telemetry import Telemetry


class ServedMetrics:
    """What peers read from this node."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._objects = telemetry.counter(
            "peer_served_objects", "Objects that a peer asked for.", labels=("peer", "outcome")
        )
        self._bytes = telemetry.counter(
            "peer_served_bytes", "Logical bytes sent to a peer.", labels=("peer",)
        )
        self._doubted = telemetry.counter(
            "peer_doubted_objects",
            "Objects that had come to a peer damaged, looked at here.",
            labels=("peer", "outcome"),
        )
        self._refused = telemetry.counter(
            "peer_handshakes_refused", "Handshakes that came to nothing.", labels=("reason",)
        )

    def served(self, node_id: str, outcomes: bytes) -> None:
        for outcome, count in (("sent", outcomes.count(1)), ("absent", outcomes.count(0))):
            if count:
                self._objects.of(peer=node_id, outcome=outcome).add(count)

    def sent(self, node_id: str, size_bytes: int) -> None:
        self._bytes.of(peer=node_id).add(size_bytes)

    def doubted(self, node_id: str, outcome: str) -> None:
        """`damaged`, and dropped; or `whole`."""
        self._doubted.of(peer=node_id, outcome=outcome).add()

    def refused(self, reason: str) -> None:
        self._refused.of(reason=reason).add()


class LinkMetrics:
    """Links that this node dials."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._dialled = telemetry.counter(
            "peer_dials", "Links dialled, by what came of it.", labels=("peer", "outcome")
        )
        self._lost = telemetry.counter("peer_links_lost", "Links that were lost.", labels=("peer",))

    def dialled(self, node_id: str, outcome: str) -> None:
        """`linked`, or the name of a Refusal, or `unreachable`."""
        self._dialled.of(peer=node_id, outcome=outcome).add()

    def lost(self, node_id: str) -> None:
        self._lost.of(peer=node_id).add()

    def watch(self, linked: Callable[[], float], members: Callable[[], float]) -> None:
        """Read these whenever metrics are collected."""
        self._telemetry.gauge("peers_linked", "Peers there is a link to.").read_from(linked)
        self._telemetry.gauge("peers_members", "Other members of the cluster.").read_from(members)


class ReadMetrics:
    """What this node reads from peers."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._objects = telemetry.counter(
            "peer_read_objects", "Objects asked of a peer.", labels=("peer", "outcome")
        )
        self._bytes = telemetry.counter(
            "peer_read_bytes", "Logical bytes that came from a peer.", labels=("peer",)
        )
        self._seconds = telemetry.histogram(
            "peer_read_seconds", "One read from a peer, to its whole answer.", labels=("peer",)
        )

    def read(self, node_id: str, outcome: str, objects: int) -> None:
        """`came`, `absent`, `failed` or `slow`."""
        if objects:
            self._objects.of(peer=node_id, outcome=outcome).add(objects)

    def came(self, node_id: str, size_bytes: int, took_s: float) -> None:
        self._bytes.of(peer=node_id).add(size_bytes)
        self._seconds.of(peer=node_id).observe(took_s)
