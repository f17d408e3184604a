"""A session that sends nothing but bad messages, each after the refusal of the one before: for gateway.py."""

from __future__ import annotations

import argparse
import asyncio
import os

import grpc
from gateway import RawSession, small_model

from penstock.actors.engine.client import new_engine_instance
from penstock.protos import engine_pb2

BAD = (
    b"\xff" * 1000,
    engine_pb2.SessionRequest(
        correlation_id=5, lookup=engine_pb2.Lookup(readers=0)
    ).SerializeToString(),
    engine_pb2.SessionRequest(
        correlation_id=6, release=engine_pb2.Release(lease=bytes(16), damaged=range(1000))
    ).SerializeToString(),
    engine_pb2.SessionRequest(correlation_id=7).SerializeToString(),
)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--ready-fd", type=int, required=True)
    given = parser.parse_args()
    async with grpc.aio.insecure_channel(given.address) as channel:
        session = await RawSession.attach(channel, small_model(new_engine_instance()))
        with os.fdopen(given.ready_fd, "w") as ready:
            ready.write("attached\n")
        while True:
            for message in BAD:
                await session.stream.write(message)
                await session.stream.read()


if __name__ == "__main__":
    asyncio.run(main())
