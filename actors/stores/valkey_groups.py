"""Which objects are asked for together, of which server; and what servers answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from anyio.lowlevel import checkpoint

from penstock.actors.stores.resp_words import Reply, RespError
from penstock.actors.stores.store import DONE, Fate, Outcome, StoreFault
from penstock.actors.stores.valkey_node import ValkeyNode
from penstock.actors.stores.valkey_servers import Servers
from penstock.runtime.units import MIB

ASKED_MAX = 256  # keys in one exchange
GROUP_BYTES_MAX = MIB  # of objects in one exchange: larger ones go alone, on several connections
FATES = {"OOM": Fate.FULL, "WRONGTYPE": Fate.REFUSED}
Group: TypeAlias = tuple[ValkeyNode, list[int]]


class Groups(NamedTuple):
    of_servers: list[Group]  # indices of objects
    nowhere: list[int]  # of those whose server nobody knows
    reason: str  # why not


async def grouped(servers: Servers, sizes: Sequence[tuple[bytes, int]]) -> Groups:
    """Objects by name and bytes, as many as are asked for together. What is known of the servers is learned anew,
    once, where it does not do."""
    reason = "the cluster has no server for its slot"
    if any(servers.known(name) is None for name, _ in sizes):
        try:
            await servers.learn()
        except StoreFault as fault:
            reason = str(fault)
    groups: list[Group] = []
    nowhere: list[int] = []
    open_: dict[ValkeyNode, tuple[list[int], int]] = {}  # the group that grows, and its bytes
    for index, (name, size) in enumerate(sizes):
        if index % ASKED_MAX == 0:
            await checkpoint()
        node = servers.known(name)
        if node is None:
            nowhere.append(index)
            continue
        indices, bytes_ = open_.get(node, ([], 0))
        if not indices or len(indices) >= ASKED_MAX or bytes_ + size > GROUP_BYTES_MAX:
            indices, bytes_ = [], 0
            groups.append((node, indices))
        indices.append(index)
        open_[node] = indices, bytes_ + size
    return Groups(groups, nowhere, reason)


def refused(error: RespError) -> Outcome:
    return Outcome(FATES.get(error.code, Fate.FAULT), reason=f"refused with {error.code}")


def saved(reply: Reply) -> Outcome:
    return refused(reply) if isinstance(reply, RespError) else DONE


def is_moved(reply: Reply) -> bool:
    return isinstance(reply, RespError) and reply.code in {"MOVED", "ASK"}


def is_there(reply: Reply) -> bool:
    """Raises StoreFault."""
    if isinstance(reply, RespError) and not is_moved(reply):
        raise StoreFault(f"a question is refused with {reply.code}")
    return reply == 1
