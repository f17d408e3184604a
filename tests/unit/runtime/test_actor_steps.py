"""A concurrent actor begins with what is queued in bounded steps of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg, answer
from penstock.runtime.ref import Ref, gather_asks
from penstock.runtime.service import BEGUN_A_STEP
from penstock.runtime.supervisor import ChildSpec, supervise

MESSAGES = 64


@dataclass(frozen=True, slots=True)
class Work(Msg["Starting", int]):
    pass


class Starting(Actor[Work]):
    """Many at a time; notes how many were begun in each turn of the loop."""

    inflight_max = MESSAGES

    def __init__(self) -> None:
        self.begun_in: Counter[int] = Counter()
        self.turn = 0

    async def on_start(self) -> None:
        self.start_soon(self._count_turns)

    async def _count_turns(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turn += 1

    async def receive(self, msg: Work) -> object:
        self.begun_in[self.turn] += 1
        await asyncio.sleep(0)
        return answer(msg, 0)


def test_a_full_mailbox_is_begun_with_in_bounded_steps() -> None:
    """Seen to fail where all of it was begun in one: nothing else had its turn meanwhile."""
    actor = Starting()

    async def main() -> None:
        ref = Ref.to(Starting, "starting", messages_max=MESSAGES)
        async with supervise(ChildSpec(ref, lambda: actor)):
            await gather_asks(ref.ask(Work(), within=5) for _ in range(MESSAGES))

    asyncio.run(main())
    assert actor.begun_in.total() == MESSAGES
    assert max(actor.begun_in.values()) <= BEGUN_A_STEP
