"""`penstock demo` as a user runs it: real processes, a tiny model, everything it promises."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.demo_process import TINY, demo, finish, processes_of


def test_the_demo_shows_and_proves_what_it_claims(tmp_path: Path) -> None:
    """Goal: cold is computed, warm is found by both workers under two layouts, and every bit and
    token is equal, from memory and, after kill -9 of the node, from disk (A17: both layouts are
    proven at the start; E1: the second engine process finds what the first stored).
    Method: the whole command, then its JSON against what follows from its arguments."""
    process = demo(
        tmp_path,
        *TINY,
        *("--documents=2", "--questions=2", "--rounds=2"),
        f"--json={tmp_path / 'out.json'}",
        f"--plot={tmp_path / 'out.png'}",
        f"--record-keys={tmp_path / 'keys'}",
    )
    code, out, err = finish(process, tmp_path)
    assert (code, err) == (0, ""), out
    numbers = json.loads((tmp_path / "out.json").read_text())
    requests = numbers["requests"]
    assert [one["phase"] for one in requests] == [
        *["cold"] * 2,
        *["warm"] * 4,
        *["disk", "warm"] * 2,
        *["check"] * 4,
    ]
    assert all(one["hit_tokens"] == 0 for one in requests if one["phase"] == "cold")
    assert all(one["hit_tokens"] == 768 for one in requests if one["phase"] != "cold")
    assert numbers["hit_tokens"] == 768
    assert 900 < numbers["prompt_tokens"] < 1024
    token_bytes = 4 * 2 * 2 * 32 * 2  # layers, K and V, heads, head size, bfloat16
    assert numbers["stored_bytes"] == 2 * 768 * token_bytes
    assert numbers["retrieved_bytes"] == numbers["kv_bytes_verified"] == 8 * 768 * token_bytes
    assert numbers["disk_bytes"] == 2 * 768 * token_bytes
    assert numbers["tokens_equal"] is True
    assert numbers["problems"] == []
    assert numbers["ttft_warm_ms"] > 0 < numbers["ttft_cold_ms"]
    assert numbers["ttft_disk_ms"] > 0 < numbers["disk_gib_s"]
    assert numbers["store_gib_s"] > 0 < numbers["retrieve_gib_s"]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "bit-identical" in out
    records = [str(tmp_path / "keys" / f"worker-{number}.json") for number in (1, 2)]
    command = [sys.executable, "-m", "penstock.actors.cli.main", "doctor", "keys", *records]
    said = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    found = json.loads(said.stdout)
    # Both asked about the same document at last, and the questions do not fill a chunk.
    assert (said.returncode, found["cause"], found["chunk"]) == (0, "NOTHING", 3), found


@pytest.mark.parametrize("prefix", [(), ("env", "--ignore-signal=INT")], ids=["", "in_background"])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, prefix: Sequence[str]) -> None:
    """Goal: SIGTERM stops the node and both workers, removes the socket, and says nothing more; also where Ctrl-C is
    ignored, as in what a script runs in the background. Seen to fail: there it went on."""
    process = demo(tmp_path, *TINY, "--documents=1", "--rounds=1000", prefix=prefix)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("cold")
    assert len(processes_of(tmp_path)) == 3
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, tmp_path)
    assert (code, err) == (130, "")


def test_a_killed_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    """Goal: kill -9 of the demo ends its node and workers too. Seen to fail: the node lived on."""
    process = demo(tmp_path, *TINY, "--documents=1", "--rounds=1000")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("cold")
    children = [os.pidfd_open(pid) for pid in processes_of(tmp_path) if pid != process.pid]
    try:
        assert len(children) == 3
        process.kill()
        process.communicate(timeout=15)
        for child in children:
            assert select.select([child], [], [], 10)[0]
    finally:
        for child in children:
            os.close(child)


@pytest.mark.parametrize(
    ("module", "name"), [("cli.main serve", "the node"), ("reference_worker", "worker ")]
)
def test_a_process_that_dies_is_named(tmp_path: Path, module: str, name: str) -> None:
    """Goal: kill -9 of the node, or of a worker, ends the demo with a sentence that says so.

    A node that is gone is a miss for its engines, and must not be reported as one.
    """
    process = demo(tmp_path, *TINY, "--documents=1", "--rounds=1000")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("cold")
    victim = next(pid for pid, words in processes_of(tmp_path).items() if module in words)
    os.kill(victim, signal.SIGKILL)
    code, _, err = finish(process, tmp_path)
    assert code == 1
    assert err.startswith(f"penstock demo: {name}")
    assert "ended with exit status -9. Its last words:" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.txt"], "absent.txt cannot be read: No such file or directory"),
        (["--documents=2", __file__], "--documents 2 asks for more than the 1 named"),
        (["--json=absent/out.json"], "there is no directory absent"),
        (["--store-in=absent"], "no store can lie in absent: there is no such directory"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    """Goal: no traceback for anything a user may type."""
    code, _, err = finish(demo(tmp_path, *arguments), tmp_path)
    assert code == 1
    assert err.count("\n") == 1
    assert words in err
