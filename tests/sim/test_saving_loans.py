"""When L1 may evict what is being saved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from support.fake_actors import Fake, fake_l1, never

from penstock.actors.api import l1_saving
from penstock.actors.api.types import LeaseId
from penstock.actors.writer_loans import Loans
from penstock.runtime.errors import UnavailableError
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import supervise

SMALL, LARGE = b"s" * 32, b"l" * 32  # tenants
ONE, TWO, THREE = LeaseId(b"1" * 16), LeaseId(b"2" * 16), LeaseId(b"3" * 16)


def lend(scene: Callable[[Loans, Fake], Awaitable[None]]) -> None:
    async def main() -> None:
        manager = fake_l1()
        manager.answers[l1_saving.LetGo] = lambda _: True
        async with supervise(manager.spec):
            await scene(Loans(manager.ref, ask_s=1.0), manager)

    simulate(0, main)


def let_go(manager: Fake) -> list[LeaseId]:
    return [one.lease for one in manager.of(l1_saving.LetGo)]


def test_a_lease_lasts_while_one_of_its_saves_is_in_its_time() -> None:
    """A save that is out of time takes nothing from the others of its batch."""

    async def scene(loans: Loans, manager: Fake) -> None:
        for _ in range(3):
            loans.begin(ONE, {LARGE})
        loans.begin(TWO, {LARGE})
        await loans.end(ONE, is_held=True)
        await loans.end(ONE, is_held=False)
        assert let_go(manager) == []
        await loans.end(ONE, is_held=False)
        assert let_go(manager) == [ONE]
        await loans.end(TWO, is_held=False)
        assert let_go(manager) == [ONE], "nothing reads it: it has gone with its handle"

    lend(scene)


def test_all_are_let_go_at_once_when_there_is_no_other_room() -> None:
    async def scene(loans: Loans, manager: Fake) -> None:
        for lease in (ONE, TWO, TWO):
            loans.begin(lease, {LARGE})
        assert await loans.let_go() == 2
        assert await loans.let_go() == 0
        await loans.end(TWO, is_held=True)
        await loans.end(TWO, is_held=True)
        assert let_go(manager) == [ONE, TWO], "once"

    lend(scene)


def test_one_tenants_are_let_go_without_the_others() -> None:
    """B17. Seen to fail: nobody knew whose they were, and all were let go."""

    async def scene(loans: Loans, manager: Fake) -> None:
        for lease, tenant in ((ONE, SMALL), (TWO, LARGE), (THREE, SMALL)):
            loans.begin(lease, {tenant})
        assert await loans.let_go(SMALL) == 2
        assert let_go(manager) == [ONE, THREE]
        assert await loans.let_go(SMALL) == 0
        assert await loans.let_go() == 1

    lend(scene)


def test_what_several_tenants_rest_on_is_let_go_for_each_of_them() -> None:
    """B17. What leaves L1 is lent to the writer under one lease, whosever it is.

    Seen to fail: a loan was that of the tenant of its first object, and the others' quota stayed full of it.
    """

    async def scene(loans: Loans, manager: Fake) -> None:
        for lease in (ONE, TWO):
            loans.begin(lease, {LARGE})
        loans.begin(ONE, {SMALL, LARGE})
        assert await loans.let_go(SMALL) == 1
        assert let_go(manager) == [ONE]
        assert await loans.let_go(LARGE) == 1
        assert let_go(manager) == [ONE, TWO]

    lend(scene)


def test_whoever_gives_up_half_way_leaves_the_others_to_be_let_go_later() -> None:
    """B15: at the next need of room, or at their end; meanwhile one may have ended.

    Seen to fail: nothing let go of the others any more, and a disk that hung kept all that they rested on.
    """

    async def scene(loans: Loans, manager: Fake) -> None:
        for lease in (ONE, TWO, THREE):
            loans.begin(lease, {LARGE})
        answers = iter([True])
        manager.answers[l1_saving.LetGo] = lambda _: next(answers, None) or never()
        with anyio.move_on_after(0.5):
            await loans.let_go()
        assert let_go(manager) == [ONE, TWO], "L1 is late with the second"
        manager.answers[l1_saving.LetGo] = lambda _: True
        await loans.end(THREE, is_held=True)
        assert let_go(manager)[2:] == [THREE]
        assert await loans.let_go() == 1
        assert let_go(manager)[3:] == [TWO]

    lend(scene)


def test_an_l1_that_refuses_ends_nobody() -> None:
    async def scene(loans: Loans, manager: Fake) -> None:
        def refuse(_: object) -> bool:
            raise UnavailableError("by the test")

        manager.answers[l1_saving.LetGo] = refuse
        loans.begin(ONE, {LARGE})
        await loans.end(ONE, is_held=True)
        loans.begin(TWO, {LARGE})
        assert await loans.let_go() == 0
        manager.answers[l1_saving.LetGo] = lambda _: True
        assert await loans.let_go() == 2, "they are asked for again"

    lend(scene)
