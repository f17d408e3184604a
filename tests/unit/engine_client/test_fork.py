"""A fork of the engine process: the child holds nothing of its parent's, and cannot use its client."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.actors.engine.client import Client
from penstock.actors.engine.errors import ForkedClient

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.loop_step_ms(500),  # the fork itself: it copies the page tables of a large process
    # The child runs nothing but a few lines and leaves by os._exit.
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


def in_child(check) -> str:
    """What `check` returns in a forked child, or how it failed there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = check()
        except ForkedClient as error:
            said = f"ForkedClient: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def arenas_mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:penstock")


async def test_the_childs_client_says_what_to_do(client: Client) -> None:
    def use() -> str:
        coroutine = client.lookup([1, 2, 3])
        try:
            coroutine.send(None)
        except StopIteration:
            return "answered"
        finally:
            coroutine.close()
        return "waits"

    assert in_child(use).startswith("ForkedClient: this client was made by process")


async def test_the_child_has_neither_the_arena_nor_its_socket(node, client: Client) -> None:
    """B5: a forked child that kept the socket would look like its parent living on."""
    arena = client._link.current().arena
    fd = arena._connection.fileno()
    inode = os.fstat(fd).st_ino

    def look() -> str:
        try:
            is_open = os.fstat(fd).st_ino == inode
        except OSError:
            is_open = False
        return f"{is_open} {arenas_mapped()}"

    assert arenas_mapped() > 0
    assert in_child(look) == "False 0"
    assert os.fstat(fd).st_ino == inode  # the parent's is as it was
    await client.stat()


async def test_a_child_does_not_inherit_descriptors_across_exec(client: Client) -> None:
    arena = client._link.current().arena
    assert not os.get_inheritable(arena._connection.fileno())
