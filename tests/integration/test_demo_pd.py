"""`penstock demo --pd` as a user runs it: two nodes, two engines, one of the nodes killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.demo_process import TINY, demo, finish, processes_of

from penstock.actors.cli.demo_network import NAMES

PD = ("--pd", "--pd-network=ports", *TINY, "--documents=1")
TOKEN_BYTES = 4 * 2 * 2 * 32 * 2  # layers, K and V, heads, head size, bfloat16
SHARED = 768  # tokens of the prompt's whole chunks


def test_handed_over_bit_by_bit(tmp_path: Path) -> None:
    """A14, C8: handed over whole, with late packets, and in part where the prefill node is killed in the midst."""
    out_file = tmp_path / "out.json"
    code, out, err = finish(demo(tmp_path, *PD, f"--json={out_file}"), tmp_path)
    assert (code, err) == (0, ""), out
    numbers = json.loads(out_file.read_text())
    assert numbers["problems"] == []
    assert "two ports" in numbers["network"]
    assert "20 ms late" in numbers["delay"]
    plain, killed, delayed = numbers["rows"]
    assert [one["scene"] for one in numbers["rows"]] == ["plain", "killed", "delayed"]
    for row in (plain, delayed):
        assert row["hit_tokens"] == SHARED
        assert row["pushed_bytes"] == row["loaded_bytes"] == SHARED * TOKEN_BYTES
        assert row["transfer_ms"] > 0 < row["prefill_ms"]
        assert row["decode_start_ms"] > 0
        assert 0 <= row["overlap_percent"] <= 100
    assert 0 < killed["hit_tokens"] < SHARED
    assert killed["push_failure"]
    assert 0 < killed["learned_ms"] < 5000
    assert all(one["pool_free_bytes"] == one["pool_bytes"] > 0 for one in numbers["rows"])
    assert "equal those of a single engine" in out


def test_interrupted(tmp_path: Path) -> None:
    process = demo(tmp_path, *PD)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("plain"):
        assert process.poll() is None
    assert len(processes_of(tmp_path)) == 4
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, tmp_path)
    assert (code, err) == (130, "")


def _namespaces_of(pid: int) -> list[str]:
    said = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line for line in said.stdout.splitlines() if f"penstock-{pid}-" in line]


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"penstock-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return made.returncode == 0


@pytest.mark.skipif(not _can_make_namespaces(), reason="takes root, and a kernel that lets it")
def test_stopped(tmp_path: Path) -> None:
    """In namespaces. The folder of a test has its name: sockets in it take no long one."""
    process = demo(tmp_path, *PD, "--pd-network=namespaces")
    assert process.stdout is not None
    first = process.stdout.readline()
    assert "namespaces" in first
    assert len(_namespaces_of(process.pid)) == len(NAMES)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, tmp_path)
    assert (code, err) == (130, "")
    assert _namespaces_of(process.pid) == []


def test_what_is_not_of_it_is_refused(tmp_path: Path) -> None:
    code, _, err = finish(demo(tmp_path, *PD, "--record-keys=keys"), tmp_path)
    assert code == 1
    assert "without --pd" in err
