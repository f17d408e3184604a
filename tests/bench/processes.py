"""Servers that benchmarks measure against, each in a process of its own: a node, and a bare gRPC echo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.actors.cli.attended import attended

STOP_WITHIN_S = 20.0
PREFAULT_WITHIN_S = 60.0
_PREFAULTED = re.compile(r"prefaulted bytes=(\d+) of_bytes=\1\b")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server process."""

    pid: int
    address: str  # a gRPC target
    ready_s: float  # from the start of the process until it said that it serves
    log: Path


@contextmanager
def node_process(*settings: str, stores: Sequence[Mapping[str, object]] = ()) -> Iterator[Server]:
    """`penstock serve` with `--set` for each of `settings` and with `stores`, on a socket of its own."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        arguments = [f"--set={one}" for one in (f"state_dir={directory}/state", *settings)]
        config = Path(directory) / "node.yaml"
        config.write_text(json.dumps({"stores": [*stores]}))  # JSON is YAML
        command = [sys.executable, "-m", "penstock.actors.cli.main", "serve", f"--config={config}"]
        with _process([*command, *arguments], Path(directory)) as server:
            yield server


@contextmanager
def echo_process() -> Iterator[Server]:
    """A grpc.aio bidirectional stream that answers every message with itself."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        command = [sys.executable, str(Path(__file__).with_name("echo_server.py"))]
        with _process([*command, f"unix:{directory}/echo.sock"], Path(directory)) as server:
            yield server


@contextmanager
def bad_client_process(node: Server) -> Iterator[Server]:
    """A session of `node` that sends bad messages as fast as they are refused."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        script = str(Path(__file__).with_name("bad_client.py"))
        target = node.address.replace("unix://", "unix:")
        with _process([sys.executable, script, target], Path(directory)) as server:
            yield server


@contextmanager
def _process(command: Sequence[str], directory: Path) -> Iterator[Server]:
    read_fd, write_fd = os.pipe()
    log = directory / "log"
    begin = time.perf_counter()
    with log.open("w") as output:
        child = subprocess.Popen(
            attended([*command, f"--ready-fd={write_fd}"]), stderr=output, pass_fds=[write_fd]
        )
    os.close(write_fd)
    try:
        with os.fdopen(read_fd) as ready:
            address = ready.readline().strip()
        if not address:
            raise RuntimeError(f"{command} did not start:\n{log.read_text()}")
        yield Server(child.pid, address, time.perf_counter() - begin, log)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_prefaulted(node: Server) -> None:
    """Until the node has backed its whole arena: before, a first write to a page is a page fault, too."""
    deadline = time.monotonic() + PREFAULT_WITHIN_S
    while not _PREFAULTED.search(node.log.read_text()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the arena was not backed in time:\n{node.log.read_text()}")
        time.sleep(0.1)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, in user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_rss_mib(pid: int) -> float:
    """Resident memory of a process without shared memory, which is where the arena is."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile")) / 1024
