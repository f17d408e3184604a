"""A node with stores in this process, one engine attached to it, and memory that can be emptied."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.declarations import hello
from support.eventually import eventually
from support.nodes import local_node
from support.raw_engine import RawEngine, attached

from penstock.actors.api import eviction
from penstock.actors.node import Node


@asynccontextmanager
async def one_engine(*stores: object, **overrides: object) -> AsyncIterator[tuple[Node, RawEngine]]:
    """`overrides`: of the node's configuration."""
    async with (
        local_node(stores=[*stores], **overrides) as node,
        attached(node.address, hello()) as engine,
    ):
        yield node, engine


async def purge(node: Node) -> None:
    """L1 is empty then."""

    async def is_empty() -> bool:
        await node._refs.eviction.ask(eviction.Purge(), within=5)
        return (await node.usage()).resident_bytes == 0

    await eventually(is_empty, within=5, what="L1 is empty")
