"""Data channels between two processes over loopback, beside iperf3, Mooncake's Transfer Engine, and bare libraries.

Each round moves so many objects of one size that they fill 256 MiB (one stream, pipelined by `send`), and says how
fast the last byte was whole at the receiver; of 4 KiB, one goes there and one comes back. What tcp is compared with
there is a socket in an event loop at both ends; blocking sockets, which no server of many can use, are told, too. NIXL
and UCX are kept to TCP, as between machines. `core_s_per_gib` counts both processes; `sender_cores` and
`receiver_cores` are of each alone, while it lasts. Where a baseline is not installed its fields are null.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import anyio
import grpc
from channel_bare import (
    GIB,
    MEMORY_BYTES,
    SMALL_BYTES,
    BareGrpc,
    BareLoop,
    BareMooncake,
    BareNixl,
    BareSocket,
    FarProcess,
    far,
    iperf3_gib_s,
    new_memory,
)
from channel_far import new_endpoint
from harness import Report, Sample, interleaved, parse_options, ratio

from penstock.runtime.channel import SECRET_BYTES, Connection, LandingSlot, Piece
from penstock.runtime.grpc_channel import GrpcEndpoint
from penstock.runtime.units import MIB

SIZES = (MIB, 32 * MIB, 256 * MIB)
PINGS = 100  # of one round


@dataclass
class Ours:
    """One kind of channel to a process of its own."""

    kind: str
    runner: asyncio.Runner
    memory: memoryview
    far: FarProcess
    secret: bytes
    cpu: dict[int, list[tuple[float, float, float]]] = field(default_factory=dict)  # by size
    _grants: dict[int, bytes] = field(default_factory=dict)
    _sent: int = 0
    _far_cpu_s: float = 0.0

    def __post_init__(self) -> None:
        self.runner.run(self._connect())

    async def _connect(self) -> None:
        dialled = await self._hear()
        endpoint = self._endpoint = new_endpoint(self.kind, self.memory)
        if isinstance(endpoint, GrpcEndpoint):
            endpoint = endpoint.over(grpc.aio.insecure_channel(f"127.0.0.1:{dialled['port']}"))
        offer = bytes.fromhex(dialled["offer"])
        self.connection: Connection = await endpoint.dial(offer, self.secret, within=10)
        for size in SIZES:
            order = {"open": size, "count": MEMORY_BYTES // size}
            self._grants[size] = bytes.fromhex((await self._ask(order))["grant"])
        self._back = anyio.Event()
        landing = self.connection.open_landing(
            [LandingSlot(memoryview(bytearray(SMALL_BYTES)), None)], lambda _: self._back.set()
        )
        self._pong = bytes.fromhex((await self._ask({"pong": landing.grant.hex()}))["grant"])

    async def _hear(self) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(None, self.far.hear)

    async def _ask(self, what: dict[str, object]) -> dict[str, Any]:
        self.far.tell(what)
        return await self._hear()

    def gib_s(self, size: int) -> float:
        return self.runner.run(self._stream(size))

    async def _stream(self, size: int) -> float:
        count = MEMORY_BYTES // size
        pieces = [
            Piece(self._sent + at, at, 0, self.memory[at * size : (at + 1) * size], None)
            for at in range(count)
        ]
        self._sent += count
        whole = asyncio.ensure_future(self._hear())
        begin, begin_cpu = time.perf_counter(), time.process_time()
        await self.connection.send(self._grants[size], pieces)
        told = await whole
        took, took_cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
        far_cpu, self._far_cpu_s = told["cpu_s"] - self._far_cpu_s, told["cpu_s"]
        self.cpu.setdefault(size, []).append((took, took_cpu, far_cpu))
        return MEMORY_BYTES / GIB / took

    def ping_us(self) -> float:
        return self.runner.run(self._pings())

    async def _pings(self) -> float:
        took = []
        payload = self.memory[:SMALL_BYTES]
        for _ in range(PINGS):
            self._back = anyio.Event()
            self._sent += 1
            begin = time.perf_counter()
            await self.connection.send(self._pong, [Piece(self._sent, 0, 0, payload, None)])
            await self._back.wait()
            took.append((time.perf_counter() - begin) * 1e6)
        return statistics.median(took)

    def cores(self, size: int) -> tuple[float, float, float]:
        """Core seconds for a GiB at both ends, and cores of the sender and of the receiver."""
        seen = self.cpu[size][1:]  # the first had what came before it, too
        per_gib = statistics.median((one[1] + one[2]) * GIB / MEMORY_BYTES for one in seen)
        near = statistics.median(one[1] / one[0] for one in seen)
        return per_gib, near, statistics.median(one[2] / one[0] for one in seen)


def cases_of(ours: Sequence[Ours], bare: dict[str, Any]) -> dict[str, Callable[[], float]]:
    cases: dict[str, Callable[[], float]] = {"iperf3": iperf3_gib_s}
    for size in SIZES:
        count = MEMORY_BYTES // size
        cases[f"bare_socket {size}"] = partial(bare["socket"].gib_s, size, count)
        cases |= {f"{one.kind} {size}": partial(one.gib_s, size) for one in ours}
        for name in ("grpc", "mooncake", "nixl"):
            if name in bare:
                cases[f"bare_{name} {size}"] = partial(bare[name].gib_s, size, count)
    for one in ours:
        cases[f"{one.kind} small"] = one.ping_us
        name = "loop" if one.kind == "tcp" else one.kind
        cases[f"bare_{one.kind} small"] = partial(_pings_us, bare[name])
    cases["bare_blocking small"] = partial(_pings_us, bare["socket"])
    return cases


def _pings_us(bare: Any) -> float:
    return statistics.median(bare.pings_us(PINGS))


def rows_of(ours: Sequence[Ours], seen: dict[str, Sample]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for one in ours:
        small, bare_small = seen[f"{one.kind} small"], seen[f"bare_{one.kind} small"]
        rows.append(
            {
                "channel": one.kind,
                "object_bytes": SMALL_BYTES,
                "gib_s": SMALL_BYTES / GIB / (small.median / 1e6),
                "small_us_p50": small.median,
                "bare_small_us_p50": bare_small.median,
                "ratio_to_bare_small": ratio(small, bare_small).median,
                "blocking_socket_small_us_p50": seen["bare_blocking small"].median,
            }
        )
        for size in SIZES:
            rows.append(_row(one, size, seen))
    fields = {name for row in rows for name in row}
    return [{**dict.fromkeys(sorted(fields)), **row} for row in rows]


def _row(one: Ours, size: int, seen: dict[str, Sample]) -> dict[str, object]:
    mine = seen[f"{one.kind} {size}"]
    per_gib, sender, receiver = one.cores(size)
    row: dict[str, object] = {
        "channel": one.kind,
        "object_bytes": size,
        "gib_s": mine.median,
        "core_s_per_gib": per_gib,
        "sender_cores": sender,
        "receiver_cores": receiver,
        "small_us_p50": seen[f"{one.kind} small"].median,
    }
    others = {
        "iperf3": "iperf3",
        "bare_socket": f"bare_socket {size}",
        "bare_grpc": f"bare_grpc {size}",
        "mooncake_tcp": f"bare_mooncake {size}",
        "nixl_tcp": f"bare_nixl {size}",
    }
    for name, case in others.items():
        theirs = seen.get(case)
        is_there = theirs is not None and not math.isnan(theirs.median)
        row[f"{name}_gib_s"] = theirs.median if theirs is not None and is_there else None
        row[f"ratio_to_{name}"] = (
            ratio(mine, theirs).median if theirs is not None and is_there else None
        )
    return row


def main() -> None:
    options = parse_options(__doc__)
    os.environ["UCX_TLS"] = "tcp"
    os.environ |= {"NIXL_LOG_LEVEL": "FATAL", "MC_LOG_LEVEL": "ERROR", "GLOG_minloglevel": "3"}
    memory = new_memory()
    has_nixl = find_spec("nixl_cu13") is not None
    kinds = ["tcp", "grpc", *(["nixl"] if has_nixl else [])]
    with asyncio.Runner() as runner, ExitStack() as ends:
        ours = []
        for kind in kinds:
            secret = secrets.token_bytes(SECRET_BYTES)
            end = ends.enter_context(far(kind, secret))
            ours.append(Ours(kind, runner, memoryview(memory), end, secret))
        bare: dict[str, Any] = {
            "socket": BareSocket(ends.enter_context(far("bare_socket")), memory),
            "loop": BareLoop(ends.enter_context(far("bare_loop")), runner),
            "grpc": BareGrpc(ends.enter_context(far("bare_grpc")), runner),
        }
        if find_spec("mooncake") is not None:
            bare["mooncake"] = BareMooncake(ends.enter_context(far("bare_mooncake")), memory)
        if has_nixl:
            bare["nixl"] = BareNixl(ends.enter_context(far("bare_nixl")), memory)
        seen = interleaved(cases_of(ours, bare), rounds=options.rounds)
        report = Report("channels")
        for name, sample in seen.items():
            report.add(name.replace(" ", "_"), sample, unit="us" if "small" in name else "GiB/s")
        report.note("rows", rows_of(ours, seen))
        report.finish(options)
        gc.collect()
        os._exit(0)  # libraries at the other ends have nobody to say goodbye to


if __name__ == "__main__":
    main()
