"""The gateway beside a bare gRPC echo of equal request bytes: lookups of a resident 128-chunk prefix.

Node and echo run in processes of their own, this one is the client. Both are spoken to as raw bytes over one stream, so
that the ratio is the node's work and not the client's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from harness import Report, Sample, parse_options, percentile, quiet, ratio
from processes import Server, bad_client_process, cpu_s, echo_process, node_process

from penstock.actors.engine.client import EngineSpec, new_engine_instance, plain_model
from penstock.actors.keys import chunk_keys
from penstock.protos import engine_pb2

CHUNKS = 128
CHUNK_TOKENS = 256
PINGS = 50  # in one turn of one case
TURNS = 8  # of every case in a round, alternating: a slow moment of the machine falls on all alike
SESSIONS = 64
LOOKUPS_EACH = 80  # in one round of the throughput case
NODE_SETTINGS = ("l1.bytes=256MiB", "l1.prefault_threads=0", "gateway.deadline=30s")

Stream = Any  # a grpc.aio bidirectional call of bytes
Case = Callable[[], Awaitable[list[float]]]


class RawSession:
    """An attached session, spoken to in serialised messages."""

    def __init__(self, stream: Stream, namespace_digest: bytes) -> None:
        self.stream = stream
        self.namespace_digest = namespace_digest
        self._requests = 0

    @classmethod
    async def attach(cls, channel: grpc.aio.Channel, spec: EngineSpec) -> RawSession:
        stream = channel.stream_stream("/penstock.v1.Engine/Session")()
        hello = engine_pb2.SessionRequest(correlation_id=1, hello=spec.hello())
        await stream.write(hello.SerializeToString())
        reply = engine_pb2.SessionReply.FromString(await stream.read())
        assert reply.WhichOneof("body") == "welcome", reply
        session = cls(stream, reply.welcome.namespace_digest)
        session._requests = 1
        return session

    async def ask(self, **body: object) -> engine_pb2.SessionReply:
        self._requests += 1
        request = engine_pb2.SessionRequest(correlation_id=self._requests, **body)
        await self.stream.write(request.SerializeToString())
        reply = engine_pb2.SessionReply.FromString(await self.stream.read())
        assert not reply.HasField("error"), reply.error
        return reply

    async def fill(self, keys: bytes) -> None:
        """Make the prefix resident, without writing a byte: nobody reads it back here."""
        reserved = await self.ask(reserve=engine_pb2.Reserve(prompt=engine_pb2.Prompt(keys=keys)))
        granted = reserved.reserved.answers.count(0)
        assert granted == len(keys) // 32, reserved
        commit = engine_pb2.Commit(lease=reserved.reserved.lease, digests=bytes(8 * granted))
        await self.ask(commit=commit)


def small_model(instance: bytes, *, layers: int = 1, head_size: int = 2) -> EngineSpec:
    """One head: a chunk's object has layers * head_size KiB."""
    return plain_model(
        weights="bench:" + "0" * 64,
        model_config_digest=bytes(32),
        layers=layers,
        kv_heads=1,
        head_size=head_size,
        dtype="bfloat16",
        block_tokens=16,
        engine_instance=instance,
    )


def lookup_message(prompt: engine_pb2.Prompt) -> bytes:
    lookup = engine_pb2.Lookup(prompt=prompt, readers=1)
    return engine_pb2.SessionRequest(correlation_id=7, lookup=lookup).SerializeToString()


async def ping(
    stream: Stream, message: bytes, after: Callable[[bytes], Awaitable[None]]
) -> list[float]:
    """Round trips in microseconds; `after` cleans up between them and is not timed."""
    seen = []
    for _ in range(PINGS):
        begin = time.perf_counter()
        await stream.write(message)
        reply = await stream.read()
        seen.append((time.perf_counter() - begin) * 1e6)
        await after(reply)
    return seen


async def throughput(sessions: list[RawSession], message: bytes, pid: int) -> tuple[float, float]:
    """(lookups per second of wall, lookups per second of node CPU) with one lookup in flight per session."""

    async def work(session: RawSession) -> None:
        tickets = []
        for _ in range(LOOKUPS_EACH):
            await session.stream.write(message)
            reply = engine_pb2.SessionReply.FromString(await session.stream.read())
            tickets.append(reply.lookup.ticket)
        session_tickets.append((session, tickets))

    session_tickets: list[tuple[RawSession, list[bytes]]] = []
    cpu_before, begin = cpu_s(pid), time.perf_counter()
    async with asyncio.TaskGroup() as workers:
        for session in sessions:
            workers.create_task(work(session))
    wall, cpu = time.perf_counter() - begin, cpu_s(pid) - cpu_before
    for session, tickets in session_tickets:
        for ticket in tickets:
            await session.ask(cancel=engine_pb2.Cancel(ticket=ticket))
    lookups = len(sessions) * LOOKUPS_EACH
    return lookups / wall, lookups / cpu


async def in_turns(cases: Mapping[str, Case], turns: int = TURNS) -> dict[str, list[float]]:
    """One round; the order is reversed in every other turn, so that no case always runs in another's wake."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(turns):
        for name in cases if turn % 2 == 0 else reversed(cases):
            seen[name] += await cases[name]()
    return seen


async def beside_bad(node: Server, rounds: int, lookups: Case) -> list[list[float]]:
    """The same lookups while another session sends bad messages, as fast as each is refused."""
    seen = []
    for _ in range(rounds):
        with bad_client_process(node):
            seen += (await in_turns({"lookup": lookups})).values()
    return seen


async def nothing(_: bytes) -> None:
    return None


async def measure(node: Server, echo: Server, rounds: int) -> Report:
    report = Report("gateway")
    node_channel = grpc.aio.insecure_channel(node.address.replace("unix://", "unix:"))
    echo_channel = grpc.aio.insecure_channel(echo.address)
    async with node_channel, echo_channel:
        spec = small_model(new_engine_instance())
        sessions = [await RawSession.attach(node_channel, spec) for _ in range(SESSIONS)]
        session = sessions[0]
        tokens = b"".join(i.to_bytes(4, "little") for i in range(CHUNKS * CHUNK_TOKENS))
        keys = chunk_keys(session.namespace_digest, tokens, CHUNK_TOKENS)
        await session.fill(keys)
        by_keys = lookup_message(engine_pb2.Prompt(keys=keys))
        by_tokens = lookup_message(engine_pb2.Prompt(tokens=tokens))
        echo_stream = echo_channel.stream_stream("/bench.Echo/Stream")()

        async def cancel(raw: bytes) -> None:
            reply = engine_pb2.SessionReply.FromString(raw)
            assert reply.lookup.hit_chunks == CHUNKS, reply
            await session.ask(cancel=engine_pb2.Cancel(ticket=reply.lookup.ticket))

        cases: dict[str, Case] = {
            "echo": lambda: ping(echo_stream, by_keys, nothing),
            "lookup": lambda: ping(session.stream, by_keys, cancel),
            "tokens": lambda: ping(session.stream, by_tokens, cancel),
            "echo_tokens": lambda: ping(echo_stream, by_tokens, nothing),
        }
        await ping(echo_stream, by_keys, nothing)
        await ping(session.stream, by_keys, cancel)
        times: dict[str, list[list[float]]] = {name: [] for name in cases}
        rates = []
        with quiet():
            for _ in range(rounds):
                for name, seen in (await in_turns(cases)).items():
                    times[name].append(seen)
                rates.append(await throughput(sessions, by_keys, node.pid))
        times["beside_bad"] = await beside_bad(node, rounds, cases["lookup"])

    def sample(name: str, percent: float) -> Sample:
        return Sample(tuple(percentile(seen, percent) for seen in times[name]))

    report.add("echo_us_p50", sample("echo", 50), unit="us")
    report.add("lookup_us_p50", sample("lookup", 50), unit="us")
    report.add("lookup_us_p99", sample("lookup", 99), unit="us")
    report.add("lookup_to_echo", ratio(sample("lookup", 50), sample("echo", 50)), unit="x")
    report.add("lookup_us_p99_beside_bad", sample("beside_bad", 99), unit="us")
    p99s = ratio(sample("beside_bad", 99), sample("lookup", 99))
    report.add("p99_beside_bad_to_quiet", p99s, unit="x")
    report.add("echo_32k_tokens_us_p50", sample("echo_tokens", 50), unit="us")
    report.add("lookup_32k_tokens_us_p50", sample("tokens", 50), unit="us")
    report.add("lookups_per_s", Sample(tuple(wall for wall, _ in rates)), unit="1/s")
    report.add("lookups_per_node_core_s", Sample(tuple(cpu for _, cpu in rates)), unit="1/s")
    return report


def main() -> None:
    options = parse_options(__doc__)
    with node_process(*NODE_SETTINGS) as node, echo_process() as echo:
        report = asyncio.run(measure(node, echo, options.rounds))
    report.finish(options)


if __name__ == "__main__":
    main()
