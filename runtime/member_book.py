"""Who is a member, from what a registry of leases says: entries that come, go, and are gone after a doubt.

No clock and no I/O here: times are given.
"""

from __future__ import annotations

import math

import msgspec

from penstock.runtime.membership import Member
from penstock.runtime.membership_config import NODE_ID, peer_address

ENTRY_BYTES_MAX = 1024


class Entry(msgspec.Struct, frozen=True):
    """What a node writes under its name."""

    address: str
    boot: str = ""  # hex
    has_left: bool = False  # in order: nobody need doubt


def written(me: Member) -> bytes:
    return msgspec.json.encode(Entry(me.address, me.boot.hex()))


def farewell(me: Member) -> bytes:
    return msgspec.json.encode(Entry(me.address, me.boot.hex(), has_left=True))


def read_entry(node_id: str, value: bytes) -> tuple[Member, bool] | None:
    """The member, and whether it has left; None: nothing that a node writes."""
    if len(value) > ENTRY_BYTES_MAX or NODE_ID.fullmatch(node_id) is None:
        return None
    try:
        entry = msgspec.json.decode(value, type=Entry)
        peer_address("address", entry.address)
        boot = bytes.fromhex(entry.boot)
    except (msgspec.DecodeError, ValueError):
        return None
    return Member(node_id, entry.address, boot), entry.has_left


class MemberBook:
    """Members by id.

    ```text
              put                   deleted, or not in a new list             doubt is over
      (none) -----> MEMBER -------------------------------------> DOUBTFUL -----------------> (none)
                      ^  \\-- left in order ------------------------> (none)
                      '---------------- put --------------------------'
    ```
    A registry that was paused or wiped tells of many deletions at once, of nodes that run and will write their entries
    anew: so who is deleted without a farewell stays a member for `doubt_s`, and while the registry is away for ever.
    """

    def __init__(self, *, doubt_s: float, members_max: int) -> None:
        """`members_max`: who comes beyond it is not taken up."""
        self._doubt_s = doubt_s
        self._members_max = members_max
        self._members: dict[str, Member] = {}
        self._doubted: dict[str, float] = {}  # until when; a part of the members

    @property
    def members(self) -> dict[str, Member]:
        return self._members

    @property
    def doubted(self) -> dict[str, float]:
        """Members that were deleted, and until when they stay."""
        return self._doubted

    @property
    def due(self) -> float:
        """When the next doubt is over; infinite if there is none."""
        return min(self._doubted.values(), default=math.inf)

    def put(self, member: Member, *, has_left: bool) -> None:
        self._doubted.pop(member.node_id, None)
        if has_left:
            self._members.pop(member.node_id, None)
        elif member.node_id in self._members or len(self._members) < self._members_max:
            self._members[member.node_id] = member

    def deleted(self, node_id: str, now: float) -> None:
        if node_id in self._members:
            self._doubted.setdefault(node_id, now + self._doubt_s)

    def listed(self, found: dict[str, tuple[Member, bool]], now: float) -> None:
        """All that there is, told anew. A doubt begins anew, too: nobody could write while the registry was away."""
        self._doubted.clear()
        for member, has_left in found.values():
            self.put(member, has_left=has_left)
        for node_id in self._members.keys() - found.keys():
            self.deleted(node_id, now)

    def settle(self, now: float) -> None:
        """Give up those whose doubt is over."""
        for node_id in [one for one, until in self._doubted.items() if until <= now]:
            del self._doubted[node_id], self._members[node_id]
