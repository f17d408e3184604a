"""What the directory counts. Levels are read when metrics are collected, from the life that there is."""

from __future__ import annotations

from penstock.actors.api.directory import Heard
from penstock.actors.directory_own import OwnSummary
from penstock.actors.directory_peers import PeerSummaries
from penstock.runtime.telemetry import Telemetry


class DirectoryMetrics:
    def __init__(self, telemetry: Telemetry, *, own: OwnSummary, peers: PeerSummaries) -> None:
        for name, help_text, read in (
            ("directory_own_chunks", "Chunks this node tells its peers of.", lambda: own.keys),
            (
                "directory_own_bytes",
                "Bytes of the summary of them, and of a copy that is being sent.",
                lambda: own.summary_bytes,
            ),
            (
                "directory_backlog_bytes",
                "Bytes of changes kept for slow peers.",
                lambda: own.backlog_bytes,
            ),
            ("directory_watchers", "Peers that are told.", lambda: own.watchers),
            (
                "directory_peers",
                "Peers whose summary is whole and up to date.",
                lambda: peers.following,
            ),
            ("directory_peers_chunks", "Chunks that all peers told of.", lambda: peers.keys),
            ("directory_peers_bytes", "Bytes of what peers told.", lambda: peers.bytes),
            (
                "directory_peers_dropped",
                "Peers for whose summary there is no room.",
                lambda: len(peers.dropped),
            ),
        ):
            telemetry.gauge(name, help_text).read_from(read)
        updates = telemetry.counter(
            "directory_updates", "Updates of peers, by what became of them.", labels=("outcome",)
        )
        self._heard = {heard: updates.of(outcome=heard.name.lower()) for heard in Heard}
        traffic = telemetry.counter(
            "directory_bytes", "Bytes of updates, told to peers or heard of them.", labels=("way",)
        )
        self._heard_bytes, self._told_bytes = traffic.of(way="heard"), traffic.of(way="told")
        self.walks = telemetry.counter(
            "directory_walks", "Times that L1 had to be gone through again."
        )

    def heard(self, heard: Heard, update_bytes: int) -> None:
        self._heard[heard].add()
        self._heard_bytes.add(update_bytes)

    def told(self, update_bytes: int) -> None:
        self._told_bytes.add(update_bytes)
