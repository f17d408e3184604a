"""The baseline of the gateway benchmark: a bare grpc.aio bidirectional echo, read and write and nothing between."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

import grpc


class Echo(grpc.GenericRpcHandler):
    """/bench.Echo/Stream: every message comes back as it is."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(self, _: object, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--ready-fd", type=int, required=True)
    given = parser.parse_args()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(given.address)
    await server.start()
    with os.fdopen(given.ready_fd, "w") as ready:
        ready.write(given.address + "\n")
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
