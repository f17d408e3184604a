"""What `penstock cluster` prints, and when it says that something is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from penstock.actors.cli.cluster import (
    add_parser,
    evict_lines,
    is_well,
    link_lines,
    node_lines,
    pin_line,
    quota_lines,
    run,
    where_lines,
)
from penstock.actors.cli.table import table
from penstock.protos.control_pb2 import (
    ClusterPeer,
    ClusterReply,
    EvictReply,
    NodeEvicted,
    NodeHolding,
    NodeQuota,
    NodeReport,
    SetQuotaReply,
    WhereReply,
)
from penstock.protos.fleet_pb2 import (
    ChunksEvicted,
    ChunksHeld,
    ChunksPinned,
    NodeDescription,
    TenantHeld,
)
from penstock.runtime.errors import ConfigError

UP = ClusterPeer(
    node_id="b",
    address="10.0.0.2:7000",
    linked=True,
    linked_ms=5_400_000,
    channel="tcp",
    epoch=bytes.fromhex("ab" * 16),
    chunks=1234,
    known=True,
)
AWAY = ClusterPeer(node_id="c", address="10.0.0.3:7000", detail="connection refused")


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]


def test_a_peer_that_is_away_is_told_with_its_reason() -> None:
    lines = link_lines(ClusterReply(node_id="a", degraded="etcd is away", peers=[UP, AWAY]))
    assert lines[0] == "a: linked to 1 of 2 peers"
    assert lines[1] == "degraded: membership: etcd is away"
    assert lines[3].split()[:6] == ["b", "10.0.0.2:7000", "up", "1.5", "h", "tcp"]
    assert "abababab" in lines[3]
    assert "1,234" in lines[3]
    assert lines[4].split()[:3] == ["c", "10.0.0.3:7000", "away"]
    assert lines[-1] == "c is away: connection refused"


def test_all_is_well_only_if_all_are_linked_and_serve() -> None:
    serving = NodeReport(node_id="b", description=NodeDescription(health="serving"))
    silent = NodeReport(node_id="b", problem="it has not answered")
    draining = NodeReport(node_id="b", description=NodeDescription(health="draining"))
    whole = ClusterReply(node_id="a", peers=[UP])
    assert is_well(whole, [])
    assert is_well(whole, [serving])
    assert not is_well(whole, [serving, silent])
    assert not is_well(whole, [draining])
    assert not is_well(ClusterReply(node_id="a", peers=[UP, AWAY]), [serving])
    assert not is_well(ClusterReply(node_id="a", peers=[UP], degraded="etcd is away"), [serving])


def test_a_node_that_could_not_be_asked_has_a_line_and_no_row() -> None:
    told = NodeDescription(
        version="1.2", health="degraded", detail="peers: 1 away", lookup_chunks=8, hit_chunks=2
    )
    lines = node_lines(
        [NodeReport(node_id="a", description=told), NodeReport(node_id="b", problem="no link")]
    )
    assert [line.split()[0] for line in lines] == ["node", "a", "a:", "b:"]
    assert "25.0 %" in lines[1]
    assert lines[2:] == ["a: peers: 1 away", "b: no link"]


def test_where_tells_what_is_there_and_what_was_promised() -> None:
    reply = WhereReply(
        nodes=[
            NodeHolding(node_id="a", held=ChunksHeld(known=True, hit_chunks=3)),
            NodeHolding(node_id="b", held=ChunksHeld(known=True, hit_chunks=7), promised_chunks=6),
            NodeHolding(node_id="c", held=ChunksHeld()),
            NodeHolding(node_id="d", problem="no link"),
        ]
    )
    total, head, *rows, problem = where_lines(reply, 8)
    assert (total, problem) == ("8 chunks", "d: no link")
    assert head.startswith("node")
    assert [row.split() for row in rows[:2]] == [["a", "3", "-"], ["b", "7", "6"]]
    assert "the namespace is not known there" in rows[2]


def test_evict_tells_what_went_and_what_is_held() -> None:
    evicted = ChunksEvicted(known=True, chunks=4, bytes=65536, left_chunks=2)
    reply = EvictReply(
        nodes=[NodeEvicted(node_id="a", evicted=evicted), NodeEvicted(node_id="b", problem="late")]
    )
    assert [line.split() for line in evict_lines(reply)[1:]] == [
        ["a", "4", "65,536", "2"],
        ["b:", "late"],
    ]


def test_quota_tells_what_a_tenant_holds_and_who_refuses() -> None:
    reply = SetQuotaReply(
        nodes=[
            NodeQuota(node_id="a", held=TenantHeld(bytes=4096)),
            NodeQuota(node_id="b", problem="too large"),
        ]
    )
    assert quota_lines(reply)[1:] == ["a     4,096", "b: too large"]


@pytest.mark.parametrize(
    ("told", "milliseconds", "words"),
    [
        (ChunksPinned(known=True, hit_chunks=2, promised_chunks=5), 9, "2 of 5 chunks are held, 3"),
        (ChunksPinned(known=True), 0, "let go"),
        (ChunksPinned(), 9, "no engine has declared it"),
    ],
)
def test_pin_tells_what_is_held_and_what_is_on_its_way(
    told: ChunksPinned, milliseconds: int, words: str
) -> None:
    assert words in pin_line(told, 5, milliseconds)


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "1e10"])
def test_a_time_that_is_none_is_refused_before_a_node_is_called(
    seconds: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("1b" * 32)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    words = ["cluster", "pin", str(file), "--namespace", "0a" * 32, "--node", "b"]
    with pytest.raises(ConfigError, match="--for: 0 to"):
        run(parser.parse_args([*words, f"--for={seconds}"]))
