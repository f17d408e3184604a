"""Members by a list in the configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.runtime.membership import Member, Roll
from penstock.runtime.membership_config import StaticConfig


class StaticMembership(Roll):
    """See `Membership`. Nobody has to be told, and nothing changes."""

    def __init__(self, config: StaticConfig, my_id: str) -> None:
        super().__init__(my_id, members_max=config.members_max)
        self.know({one.id: Member(one.id, one.address) for one in config.peers})

    async def announce(self, me: Member) -> None:
        """The list has been written already."""

    async def aclose(self) -> None:
        """The list stays."""


@asynccontextmanager
async def static_membership(config: StaticConfig, my_id: str) -> AsyncIterator[StaticMembership]:
    yield StaticMembership(config, my_id)
