"""The node's own configuration: what contradicts itself is refused by the path of its key."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from penstock.actors.config import NodeConfig
from penstock.actors.config_words import PolicyName
from penstock.actors.node import Node
from penstock.actors.node_memory import wait_for_memory
from penstock.actors.node_settings import gateway_limits, listen_spec
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.units import GIB, MIB


def load(**overrides: object) -> NodeConfig:
    return load_config(
        NodeConfig, overrides={k.replace("__", "."): v for k, v in overrides.items()}
    )


def test_the_defaults_agree_with_each_other() -> None:
    config = load()
    assert config.l1.bytes == 4 * GIB
    limits = gateway_limits(config)
    assert limits.message_bytes_max == 4 * MIB
    assert limits.wire().lease_ms_default == 30_000
    assert limits.lease_ms_default <= limits.lease_ms_max
    assert config.l1.objects_bound() == 1 << 20


def test_file_environment_and_overrides_meet(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("l1:\n  bytes: 1GiB\n  policy: s3fifo\ngateway:\n  lease: 10s\n")
    config = load_config(
        NodeConfig, file, env={"PENSTOCK_DRAIN": "5s"}, overrides={"l1.bytes": "2GiB"}
    )
    assert (config.l1.bytes, config.l1.policy) == (2 * GIB, PolicyName.S3FIFO)
    assert (config.gateway.lease, config.drain) == (10, 5)


UNKNOWN = [
    ("l1.byts", "l1.byts", "did you mean l1.bytes"),
    ("L1.bytes", "L1", r"did you mean l1\?"),
    ("l1.BYTES", "l1.BYTES", r"did you mean l1.bytes\?"),
    ("gateway.listen_address", "gateway.listen_address", "there is no such key"),
    ("l1_bytes", "l1_bytes", "there is no such key"),
]


@pytest.mark.parametrize(("key", "path", "said"), UNKNOWN)
def test_a_key_that_is_not_there_is_named(key: str, path: str, said: str) -> None:
    """E4: a misspelt key is an error with its path, and not silently the default.

    Seen to fail with `forbid_unknown_fields` taken from the base of all configurations.
    """
    with pytest.raises(ConfigError, match=said) as refused:
        load_config(NodeConfig, overrides={key: "1GiB"})
    assert refused.value.path == path


def test_two_sources_that_disagree_are_both_named(tmp_path: Path) -> None:
    """E4: conflicting keys are an error with the path of the key.

    Seen to fail when the environment overwrote what the file said.
    """
    file = tmp_path / "node.yaml"
    file.write_text("l1:\n  bytes: 1GiB\n")
    with pytest.raises(ConfigError, match=r"PENSTOCK_L1__BYTES.*node\.yaml") as refused:
        load_config(NodeConfig, file, env={"PENSTOCK_L1__BYTES": "2GiB"})
    assert refused.value.path == "l1.bytes"


WRONG: list[tuple[dict[str, object], str]] = [
    ({"chunk_tokens": 0}, "chunk_tokens"),
    ({"chunk_tokens": 65537}, "chunk_tokens"),
    ({"mailbox_max": 0}, "mailbox_max"),
    ({"ask_within": 0}, "ask_within"),
    ({"l1.bytes": 0}, "l1"),
    ({"l1.bytes": "4097"}, "l1"),
    ({"l1.bytes": "-4KiB"}, "l1.bytes"),
    ({"l1.low_water": 0.96}, "l1"),
    ({"l1.high_water": 1.01}, "l1"),
    ({"l1.quarantine_max": 0}, "l1"),
    ({"l1.object_bytes_min": 4095}, "l1"),
    ({"l1.objects_max": -1}, "l1.objects_max"),
    ({"l1.leases_max": 0}, "l1.leases_max"),
    ({"l1.watches_max": -1}, "l1.watches_max"),
    ({"l1.evict_batch": 0}, "l1"),
    ({"l1.prefault_threads": -1}, "l1.prefault_threads"),
    ({"l1.prefault_threads": 65}, "l1.prefault_threads"),
    ({"l1.policy": "mru"}, "l1.policy"),
    (
        {"l1.quotas": [{"salt": "a", "bytes": 1}, {"salt": "a", "bytes": 2}]},
        "l1",
    ),
    ({"l1.quotas": [{"salt": "a", "size": 1}]}, "l1.quotas.0.size"),
    ({"l1.bytes": "1MiB", "l1.tenant_bytes_max": "2MiB"}, "l1"),
    ({"l1.bytes": "1MiB", "l1.quotas": [{"salt": "a", "bytes": "2MiB"}]}, "l1"),
    ({"gateway.listen": []}, "gateway"),
    ({"gateway.listen": [{"address": "nowhere"}]}, "gateway.listen.0"),
    ({"gateway.listen": [{"tls_key": "k"}]}, "gateway.listen.0"),
    ({"gateway.listen": [{"tls_ca": "k"}]}, "gateway.listen.0"),
    ({"gateway.outgoing_max": 0}, "gateway.outgoing_max"),
    ({"gateway.inflight_max": 0}, "gateway.inflight_max"),
    ({"gateway.streams_max": 0}, "gateway.streams_max"),
    ({"gateway.chunks_max": 0}, "gateway.chunks_max"),
    ({"gateway.leases_max": -1}, "gateway.leases_max"),
    ({"gateway.tickets_max": 0}, "gateway.tickets_max"),
    ({"gateway.message_max": "65MiB"}, "gateway"),
    ({"gateway.lease": 601}, "gateway"),
    ({"gateway.lease": 0}, "gateway"),
    ({"gateway.lease_max": "2000h"}, "gateway"),
    ({"gateway.deadline": 121}, "gateway"),
    ({"gateway.heartbeat": 0}, "gateway"),
    ({"gateway.stall": 0}, "gateway"),
    ({"gateway.stop_within": 0}, "gateway"),
    ({"gateway.stop_within": "2000h"}, "gateway"),
    ({"gateway.unary_max": 0}, "gateway.unary_max"),
    ({"gateway.probes_max": 0}, "gateway.probes_max"),
    ({"gateway.watches_max": 0}, "gateway.watches_max"),
    ({"gateway.reflections_max": 0}, "gateway.reflections_max"),
    ({"gateway.refusals_max": 0}, "gateway.refusals_max"),
    ({"control.calls_max": 0}, "control.calls_max"),
    ({"control.waiting_max": 0}, "control.waiting_max"),
    ({"control.waiting_max": 64}, "control"),
    ({"control.waiting_max": 769, "control.calls_max": 2000}, "control"),
    ({"metrics_connections_max": 0}, "metrics_connections_max"),
    ({"metrics_within": 0}, "metrics_within"),
    ({"sessions.sessions_max": 0}, "sessions.sessions_max"),
    ({"sessions.namespaces_max": 0}, "sessions.namespaces_max"),
    ({"metrics_address": "unix:///m.sock"}, "metrics_address"),
    ({"metrics_address": "9100"}, "metrics_address"),
    ({"metrics_address": "0.0.0.0:9100"}, "metrics_address"),
]


@pytest.mark.parametrize(("overrides", "path"), WRONG, ids=[str(one) for one, _ in WRONG])
def test_a_value_that_cannot_be_used_is_refused_where_it_is_read(
    overrides: dict[str, object], path: str
) -> None:
    """E4: refused at start with the path, never later as a hang, a crash or a silent clamp."""
    with pytest.raises(ConfigError) as refused:
        load_config(NodeConfig, overrides=overrides)
    assert refused.value.path == path


def test_a_save_that_must_go_now_leaves_a_load_time_to_get_room() -> None:
    """B15: where a store wants what leaves L1, its turn is over before a load gives up; the message has the fix.

    Seen to fail with equal times, which were the defaults.
    """
    wants = {"stores": [{"type": "memory", "name": "m", "write": "on_evict", "capacity": "1MiB"}]}
    config = load_config(NodeConfig, overrides=wants)
    assert config.l1.save_urgent_within < config.prefetch.room_within
    late: dict[str, object] = {"l1.save_urgent_within": 1}
    with pytest.raises(ConfigError, match=r"set it to at most 0\.5s, or raise prefetch") as refused:
        load_config(NodeConfig, overrides=wants | late)
    assert refused.value.path == "l1.save_urgent_within"
    assert load_config(NodeConfig, overrides=late).l1.save_urgent_within == 1, "nobody wants it"


def test_a_relative_state_dir_is_one_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: the node told engines of a socket at unix://here/penstock.sock, which is no address."""
    monkeypatch.chdir(tmp_path)
    config = load(state_dir="here")
    assert config.state_dir == tmp_path / "here"
    address = listen_spec(config.gateway.listen[0], config).address
    assert address.target() == f"unix:{tmp_path}/here/penstock.sock"


def test_more_memory_than_the_machine_has_is_refused_with_what_it_may_be() -> None:
    """Seen to fail: neither the key nor a number that would do was told."""
    with pytest.raises(ConfigError, match=r"lower l1\.bytes to at most \d+$") as refused:
        anyio.run(wait_for_memory, load(l1__bytes="1000TiB"))
    assert refused.value.path == "l1.bytes"
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = int(str(refused.value).rsplit(" ", 1)[1])
    assert most == machine - load().l1.memory_reserve
    with pytest.raises(ConfigError, match=r"lower l1\.memory_reserve$"):
        anyio.run(wait_for_memory, load(l1__memory_reserve="1000TiB"))


def test_what_a_program_gave_is_not_said_to_be_of_a_command_line() -> None:
    async def run() -> None:
        async with Node.local(l1_bytes="12 megs"):
            raise AssertionError

    with pytest.raises(ConfigError, match=r"\(in the arguments\)$") as refused:
        anyio.run(run)
    assert refused.value.path == "l1.bytes"
