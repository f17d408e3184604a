"""The same work on many objects, side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from penstock.runtime.errors import PenstockError

Item = TypeVar("Item")
Result = TypeVar("Result")


async def together(
    work: Callable[[Item], Awaitable[Result]],
    items: Sequence[Item],
    *,
    expected: tuple[type[Exception], ...] = (PenstockError,),
) -> list[Result]:
    """`work` of all items at a time; answers in their order.

    The first `expected` error cancels the others, and is raised as it is.
    """
    answers: dict[int, Result] = {}
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def one(at: int, item: Item) -> None:
            try:
                answers[at] = await work(item)
            except expected as error:
                errors.append(error)
                group.cancel_scope.cancel()

        for at, item in enumerate(items):
            group.start_soon(one, at, item)
    if errors:
        raise errors[0]
    return [answers[at] for at in range(len(items))]
