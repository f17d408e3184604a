"""`penstock replay` against an independent count: a real node, real reservations, real commits."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.traces import AGENTIC, CONVERSATION, HOW_TO_GET, MADE, MADE_AGENTIC, count_hits

from penstock.actors.cli.traces import TraceFormat, read_trace
from penstock.protos import engine_pb2, engine_pb2_grpc

KEYS = {
    "requests",
    "blocks",
    "hit_blocks",
    "hit_rate",
    "lookup_us_p50",
    "lookup_us_p99",
    "evictions",
    "wall_s",
}


AS_COUNTED = ("--policy", "lru")  # what `count_hits` counts, of a cache that is not unbounded


def penstock_replay(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock.actors.cli.main", "replay", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def replayed(tmp_path: Path, *words: object) -> dict[str, Any]:
    done = penstock_replay(*words, "--json", tmp_path / "numbers.json")
    assert done.returncode == 0, done.stderr
    assert re.search(r"replay: (\d+) of \1 ", done.stderr)  # nobody watches: lines, and the last
    numbers: dict[str, Any] = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers.keys() >= KEYS
    assert 0 < numbers["lookup_us_p50"] <= numbers["lookup_us_p99"]
    return numbers


def counted(
    trace: Path, *, capacity: int | None = None, requests_max: int | None = None
) -> tuple[int, int]:
    read = islice(read_trace(trace, TraceFormat.AUTO), requests_max)
    return count_hits(((one.scope, one.blocks) for one in read), capacity)


@pytest.mark.parametrize("capacity", [None, 400, 60])
def test_a_replay_hits_what_an_independent_count_hits(tmp_path: Path, capacity: int | None) -> None:
    """E3: the hit rate told is the truth. Seen to fail with what was just stored counted as hit."""
    words = [] if capacity is None else ["--capacity-blocks", capacity]
    numbers = replayed(tmp_path, MADE, *AS_COUNTED, *words)
    blocks, hits = counted(MADE, capacity=capacity)
    assert (numbers["requests"], numbers["blocks"], numbers["hit_blocks"]) == (400, blocks, hits)
    assert numbers["hit_rate"] == hits / blocks
    assert numbers["stored_blocks"] + numbers["refused_blocks"] == blocks - hits
    resident = numbers["stored_blocks"] - numbers["evictions"]
    assert resident == (blocks - hits if capacity is None else capacity)


def test_local_ids_hit_nothing_of_another_file(tmp_path: Path) -> None:
    numbers = replayed(tmp_path, MADE_AGENTIC, "--format", "agentic")
    assert (numbers["blocks"], numbers["hit_blocks"]) == counted(MADE_AGENTIC)


def test_a_capacity_in_bytes_is_as_many_blocks(tmp_path: Path) -> None:
    words = ["--capacity", "6400KiB", "--object-bytes", "16KiB", "--requests-max", 200]
    numbers = replayed(tmp_path, MADE, *AS_COUNTED, *words)
    assert numbers["capacity_blocks"] == 400
    expected = counted(MADE, capacity=400, requests_max=200)
    assert (numbers["blocks"], numbers["hit_blocks"]) == expected


def test_another_policy_has_its_own_hits(tmp_path: Path) -> None:
    words = ["--capacity-blocks", 400, "--policy", "s3fifo"]
    numbers = replayed(tmp_path, MADE, *words)
    blocks, unbounded = counted(MADE)
    assert numbers["blocks"] == blocks
    assert 0 < numbers["hit_blocks"] < unbounded
    assert numbers["evictions"] > 0


def test_a_prompt_larger_than_the_cache_is_refused_in_part(tmp_path: Path) -> None:
    """B17: no room after eviction is an answer, not a wait."""
    path = tmp_path / "long.jsonl"
    prompt = json.dumps({"timestamp": 0, "hash_ids": list(range(50))})
    path.write_text(f"{prompt}\n{prompt}\n")
    numbers = replayed(tmp_path, path, "--capacity-blocks", 20)
    assert (numbers["blocks"], numbers["hit_blocks"]) == (100, 20)
    assert (numbers["stored_blocks"], numbers["refused_blocks"]) == (20, 60)


def test_a_prompt_of_any_length_is_counted_whole(tmp_path: Path) -> None:
    """E3, B13. Seen to fail: beyond the node's usual bound of objects the client cut the prompt, and the blocks after
    the cut were neither hits nor stored, and nobody said so."""
    path = tmp_path / "longest.jsonl"
    prompt = json.dumps({"timestamp": 0, "hash_ids": list(range(20_000))})
    path.write_text(f"{prompt}\n{prompt}\n")
    numbers = replayed(tmp_path, path)
    assert (numbers["blocks"], numbers["hit_blocks"]) == (40_000, 20_000)
    assert (numbers["stored_blocks"], numbers["refused_blocks"]) == (20_000, 0)


def test_real_speed_keeps_the_times_of_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "timed.jsonl"
    lines = [{"timestamp": 250 * n, "hash_ids": [n]} for n in range(3)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert replayed(tmp_path, path, "--speed", "real")["wall_s"] >= 0.5


@pytest.mark.skipif(not CONVERSATION.exists(), reason=HOW_TO_GET)
def test_the_published_trace_agrees_too(tmp_path: Path) -> None:
    words = ["--capacity-blocks", 10_000, "--requests-max", 1500]
    numbers = replayed(tmp_path, CONVERSATION, *AS_COUNTED, *words)
    expected = counted(CONVERSATION, capacity=10_000, requests_max=1500)
    assert (numbers["blocks"], numbers["hit_blocks"]) == expected
    assert numbers["evictions"] > 0


@pytest.mark.skipif(not AGENTIC.exists(), reason=HOW_TO_GET)
def test_published_agentic_traces_agree_too(tmp_path: Path) -> None:
    numbers = replayed(tmp_path, AGENTIC, "--requests-max", 150)
    expected = counted(AGENTIC, requests_max=150)
    assert (numbers["blocks"], numbers["hit_blocks"]) == expected


def test_a_malformed_line_is_named_before_a_node_is_started(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"timestamp": 0, "hash_ids": [1]}\n{"timestamp": 0, "hash_ids": "1"}\n')
    done = penstock_replay(path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (f"penstock: {path}:2: Expected `array`, got `str` - at `$.hash_ids`\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--capacity", "1000TiB"], "the node did not start"),
        (["--capacity", "4095"], "--capacity: 4095 is less than one --object-bytes"),
        (["--object-bytes", "5000"], "5000 is no multiple of 4KiB"),
        (["--object-bytes", "512MiB"], "from 4KiB to 256MiB"),
        (["--capacity", "4KiB", "--capacity-blocks", "1"], "not allowed with argument"),
        (["--capacity-blocks", "0"], "0 is not 1 or more"),
        (["--capacity", "many"], "'many' is not a size"),
        (["--policy", "clock"], "is not one of lru"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(words: list[str], says: str) -> None:
    done = penstock_replay(MADE, *words)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory in which a socket's path is short enough."""
    with tempfile.TemporaryDirectory(prefix="r-") as directory:
        yield Path(directory)


def test_a_killed_replay_leaves_no_node(short_path: Path) -> None:
    """Seen to fail: the node lived on for ever, with its memory."""
    path = short_path / "slow.jsonl"
    lines = [{"timestamp": 60_000 * n, "hash_ids": [n]} for n in range(3)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, "-m", "penstock.actors.cli.main", "replay", str(path)]
    with subprocess.Popen(
        [*command, "--speed", "real"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(short_path)},
    ) as replaying:
        wait_attached(short_path)
        pidfd = os.pidfd_open(first_child(replaying.pid))
        try:
            replaying.kill()
            assert select.select([pidfd], [], [], 10)[0]
        finally:
            os.close(pidfd)


def wait_attached(directory: Path) -> None:
    """Until the replay in `directory` is attached to its node."""
    ends = time.monotonic() + 10
    while not (sockets := list(directory.glob("penstock-replay-*/penstock.sock"))):
        assert time.monotonic() < ends
        os.sched_yield()
    with grpc.insecure_channel(f"unix:{sockets[0]}") as channel:
        stub = engine_pb2_grpc.EngineStub(channel)
        while not stub.Stat(engine_pb2.StatRequest(), timeout=10, wait_for_ready=True).sessions:
            assert time.monotonic() < ends


def first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
