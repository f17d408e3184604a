"""`penstock serve` as its users meet it: starting, refusing to start, being operated, stopping."""

from __future__ import annotations

import socket
import stat
import subprocess
from pathlib import Path

import pytest
from support.declarations import hello, keys
from support.nodes import local_node, serve_command, served_node
from support.raw_engine import attached

from penstock.actors.config import NodeConfig
from penstock.actors.node import Node
from penstock.protos import engine_pb2
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError, StartFailed

anyio_test = pytest.mark.anyio


def refused(tmp_path: Path, **overrides: object) -> str:
    """What `penstock serve` says when it does not start: one sentence, status 2."""
    command = serve_command(tmp_path / "state", **overrides)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    assert ended.returncode == 2, ended
    lines = ended.stderr.strip().splitlines()
    assert lines[-1].startswith("penstock: "), ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return lines[-1]


# Starting.


def test_a_served_node_is_private_ready_and_stops_on_sigterm(tmp_path: Path) -> None:
    with served_node(tmp_path / "state") as node:
        assert node.address == f"unix://{tmp_path}/state/penstock.sock"
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        for name in ("penstock.sock", "arena.sock"):
            assert stat.S_IMODE((tmp_path / "state" / name).stat().st_mode) == 0o600
        health = node.health()
        assert health.state == engine_pb2.HEALTH_STATE_SERVING
        names = [part.name for part in health.parts]
        assert names == ["l1_manager", "eviction_controller", "sessions", "control", "gateway"]
        assert node.stat().arena_bytes == 4 << 20
        assert node.terminate() == 0
        assert "Traceback" not in node.log, node.log
        assert not list((tmp_path / "state").glob("*.sock"))


def test_a_killed_nodes_leavings_do_not_hinder_the_next(tmp_path: Path) -> None:
    with served_node(tmp_path / "state") as first:
        first.kill()
        assert (tmp_path / "state" / "penstock.sock").exists()
        with served_node(tmp_path / "state") as second:
            assert second.health().state == engine_pb2.HEALTH_STATE_SERVING


def test_a_second_node_on_the_same_state_is_refused_and_hurts_nobody(tmp_path: Path) -> None:
    """Seen to fail while only the gRPC socket was locked: the second node had replaced and removed the arena socket
    of the first before it was refused.
    """
    with served_node(tmp_path / "state") as node:
        said = refused(tmp_path)
        assert "another node" in said
        assert str(tmp_path / "state") in said
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(tmp_path / "state" / "arena.sock"))
        assert node.health().state == engine_pb2.HEALTH_STATE_SERVING


def test_two_nodes_do_not_share_a_socket(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/engines.sock"
    listen = f"[{{address: '{address}'}}]"
    with served_node(tmp_path / "one", gateway__listen=listen) as node:
        said = refused(tmp_path, gateway__listen=listen)
        assert "another node listens on this socket" in said
        assert node.health().state == engine_pb2.HEALTH_STATE_SERVING


@pytest.mark.parametrize("name", ["penstock.sock", "arena.sock"])
def test_the_socket_of_another_program_is_not_taken_away_from_it(tmp_path: Path, name: str) -> None:
    """Seen to fail: the node put its own in its place, and whoever was meant for the other came to us."""
    (tmp_path / "state").mkdir(mode=0o700)
    path = tmp_path / "state" / name
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as caller:
        other.bind(str(path))
        other.listen()
        said = refused(tmp_path)
        assert f"{path} is the socket of another program that runs" in said
        assert "another state_dir" in said
        caller.connect(str(path))
    with served_node(tmp_path / "state") as node:  # nobody is behind it any more
        assert node.health().state == engine_pb2.HEALTH_STATE_SERVING


def test_a_state_directory_others_can_write_is_refused(tmp_path: Path) -> None:
    """D1's kin: whoever can write the directory can put a socket of his own there, and be the node.

    Seen to fail while a directory that was there was taken as it was.
    """
    (tmp_path / "state").mkdir(mode=0o777)
    (tmp_path / "state").chmod(0o777)
    assert "others" in refused(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"l1__byts": "1GiB"}, "l1.byts: there is no such key"),
        ({"l1__bytes": "4097"}, "multiple of 4096"),
        ({"l1__bytes": "1000TiB", "l1__memory_within": "0.01"}, "l1.bytes"),
        (
            {"gateway__listen": "[{address: '0.0.0.0:0'}]"},
            "tls_certificate with tls_key and token_file",
        ),
        ({"gateway__listen": "[{address: '127.0.0.1:0', token_file: /nowhere}]"}, "/nowhere"),
        (
            {"gateway__listen": "[{address: 'h:0', tls_key: /no, tls_certificate: /no}]"},
            "token_file",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence(
    tmp_path: Path, overrides: dict[str, object], said: str
) -> None:
    """E4, D4: a node that cannot be what its configuration says does not start."""
    assert said in refused(tmp_path, **overrides)


def test_a_metrics_port_that_is_taken_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Seen to fail with an OSError out of a task group: a traceback of forty lines."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(tmp_path, metrics_address=f"127.0.0.1:{port}")


@anyio_test
async def test_exposure_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    """D4: refused before the arena, by the path of the key."""
    overrides = {
        "state_dir": str(tmp_path / "s"),
        "l1.bytes": 1 << 20,
        "gateway.listen": [{"address": "0.0.0.0:0"}],
    }
    config = load_config(NodeConfig, overrides=overrides)
    with pytest.raises(ConfigError, match=r"tls_certificate with tls_key and token_file"):
        async with Node.run(config):
            pass


@anyio_test
async def test_what_the_body_raises_passes_as_it_is() -> None:
    """Seen to fail with a task group around the body: it came as an ExceptionGroup."""
    with pytest.raises(KeyError, match="mine"):
        async with local_node():
            raise KeyError("mine")


@anyio_test
async def test_a_second_node_in_this_process_is_refused_too() -> None:
    async with local_node() as node:
        with pytest.raises(StartFailed, match="another node"):
            async with Node.run(node.config):
                pass
        async with attached(node.address, hello()) as engine:
            await engine.put(keys(1))
