"""An engine process that forks: run as a program with a node's address, prints one JSON object of what it saw.

It imports what an engine imports and nothing else before it, since what a fork does to gRPC depends on that.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import ClientConfig, new_engine_instance, plain_model
from penstock.actors.engine.errors import ForkedClient

FORKS = 12
TOKENS = list(range(64))


def in_child(look: Callable[[], object]) -> object:
    """What `look` returns in a forked child, or the child's exit status where it does not get that far."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.write(writing, json.dumps(look()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    return json.loads(said) if said and exit_code == 0 else f"ended with {exit_code}"


def refusal(client: BlockingClient) -> str:
    try:
        client.lookup(TOKENS)
    except ForkedClient as error:
        return str(error)
    return "none"


def arenas_mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:penstock")


def main(address: str) -> None:
    spec = plain_model(
        weights="test/model@" + "0" * 40,
        model_config_digest=bytes(32),
        layers=2,
        kv_heads=2,
        head_size=16,
        dtype="float32",
        block_tokens=16,
        engine_instance=new_engine_instance(),
    )
    with BlockingClient.connect(ClientConfig(address=address), spec) as client:
        client.lookup(TOKENS).result()
        arena_socket = client._client._link.current().arena._connection
        fd, inode = arena_socket.fileno(), os.fstat(arena_socket.fileno()).st_ino

        def has_arena_socket() -> bool:
            try:
                return os.fstat(fd).st_ino == inode
            except OSError:
                return False

        print(
            json.dumps(
                {
                    "refusals": sorted(
                        {str(in_child(lambda: refusal(client))) for _ in range(FORKS)}
                    ),
                    "child_has_socket": in_child(has_arena_socket),
                    "child_arenas": in_child(arenas_mapped),
                    "parent_has_socket": has_arena_socket(),
                    "parent_arenas": arenas_mapped(),
                    "inheritable": os.get_inheritable(fd),
                    "chunks_after": client.lookup(TOKENS).result().total_chunks,
                    "attachments": client.statistics().attachments,
                    "child_closes": in_child(client.close),
                }
            )
        )


if __name__ == "__main__":
    main(sys.argv[1])
