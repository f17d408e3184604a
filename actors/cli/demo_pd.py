"""`penstock demo --pd`: one engine computes prompts, one at another node answers them, and every bit is checked.

What a single engine answers is the truth. Then each prompt is pushed while it is computed; once more by itself, to know
what that takes; with the prefill node killed in the midst of it; and with packets that come late.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from penstock.actors.cli.demo_cluster import CHUNK_TOKENS, DemoOptions
from penstock.actors.cli.demo_documents import Document, prompt
from penstock.actors.cli.demo_network import DECODE, PREFILL, Network, places
from penstock.actors.cli.demo_pd_cluster import PdPair, pd_pair
from penstock.actors.cli.demo_pd_judge import Handover, Scene
from penstock.actors.cli.demo_processes import ProcessFailed
from penstock.actors.engine.reference_messages import (
    Abandon,
    Expect,
    Generate,
    Generation,
    PrefixFrom,
    Push,
    PushAgain,
    Pushed,
    Watch,
    Watched,
)

Say = Callable[[str], None]
T = TypeVar("T")

_WARM_TOKENS = 2 * CHUNK_TOKENS  # of pushes that are not counted
_LINKED_WITHIN_S = 30.0
_DIAL_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Shown:
    """All that was done, and where."""

    handovers: list[Handover]
    network: str  # where the nodes were
    delay: str  # how packets were delayed


async def perform(
    options: DemoOptions,
    documents: Sequence[Document],
    directory: Path,
    network: Network,
    say: Say,
) -> Shown:
    """Start everything, hand every document over in every scene, stop everything. Raises ProcessFailed."""
    async with places(network) as found:
        say(f"Two nodes: {found.title}.")
        async with pd_pair(options, found, directory) as pair:
            return await _Show(pair, options, documents, say).all_scenes(found.title)


@dataclass(frozen=True, slots=True)
class _Answered:
    last: Watched  # of what was expected
    asked_s: float
    decoded: Generation


class _Show:
    """One run of the demo."""

    def __init__(
        self, pair: PdPair, options: DemoOptions, documents: Sequence[Document], say: Say
    ) -> None:
        self._pair, self._options, self._documents, self._say = pair, options, documents, say
        self._requests = 0
        self._truths: list[Generation] = []

    async def all_scenes(self, title: str) -> Shown:
        for document in self._documents:
            self._say(f"A single engine answers {document.name}")
            self._truths.append(await self._answer(document, PrefixFrom.NOWHERE))
        numbers = range(len(self._documents))
        await self._warm_up()
        done = [await self._hand_over(Scene.PLAIN, number) for number in numbers]
        done.append(await self._kill_in_the_midst(0))
        self._say("Starting the prefill node again, packets on its way being late")
        delay = await self._pair.start_slowed_down()
        await self._warm_up()
        done += [await self._hand_over(Scene.DELAYED, number) for number in numbers]
        return Shown(done, title, delay)

    async def _warm_up(self) -> None:
        """Push something, as often as it takes until the nodes are linked. Raises ProcessFailed."""
        text = "warm " * (_WARM_TOKENS // 5 + 1)
        failure = "it was not answered in time"
        with anyio.move_on_after(_LINKED_WITHIN_S):
            while failure:
                self._pair.check_running()
                request_id = self._next_request()
                await self._expect(text, request_id)
                push = Push(text, DECODE, request_id, self._patience_s)
                failure = (await self._pair.prefill.push(push)).failure
                await self._pair.decode.wait(Abandon())
                await anyio.sleep(_DIAL_PAUSE_S)
        if failure:
            raise ProcessFailed(f"no push gets through between the nodes: {failure}")
        await self._pair.drained()

    async def _hand_over(self, scene: Scene, number: int) -> Handover:
        document = self._documents[number]
        self._say(f"{scene.value}: {document.name} is computed at one node, answered at the other")
        pair, text, request_id = self._pair, prompt(document, 0), self._next_request()
        pair.check_running()
        await self._expect(text, request_id)
        push = Push(text, DECODE, request_id, self._patience_s)
        pushed, answered = await self._while_pushing(push, partial(self._finish, number, document))
        await pair.drained()
        return Handover(
            scene=scene,
            document=number,
            truth=self._truths[number],
            pushed=pushed,
            alone=await self._push_again(text),
            last=answered.last,
            decoded=answered.decoded,
            decode_asked_s=answered.asked_s,
            pool=await pair.drained(),
        )

    async def _push_again(self, text: str) -> Pushed:
        request_id = self._next_request()
        await self._expect(text, request_id)
        again = PushAgain(text, DECODE, request_id, self._patience_s)
        pushed = await self._pair.prefill.push(again)
        await self._pair.decode.wait(Abandon())
        return pushed

    async def _kill_in_the_midst(self, number: int) -> Handover:
        """The prefill engine stands still at half of the prompt until its node is killed; the decode engine goes on."""
        document = self._documents[number]
        # Nobody has it yet: otherwise all of it would be pushed at once.
        document = Document(document.name, f"Once more.\n{document.text}")
        half = self._chunks(number) // 2
        truth = await self._answer(document, PrefixFrom.NOWHERE)
        self._say(f"killed: the prefill node, while half of {document.name} is pushed")
        request_id = self._next_request()
        # Half of it plus what is readable only together with more.
        held = min(half + 1, self._chunks(number) - 1)
        text = prompt(document, 0)
        await self._expect(text, request_id)
        push = Push(text, DECODE, request_id, self._patience_s, stand_still_after=held)
        killed_s = 0.0

        async def kill() -> _Answered:
            nonlocal killed_s
            await self._pair.decode.watch(Watch(half, self._patience_s))
            killed_s = time.monotonic()
            await self._pair.kill(PREFILL)
            return await self._finish(number, document)

        pushed, answered = await self._while_pushing(push, kill)
        return Handover(
            scene=Scene.KILLED,
            document=number,
            truth=truth,
            pushed=pushed,
            alone=None,
            last=answered.last,
            decoded=answered.decoded,
            decode_asked_s=answered.asked_s,
            pool=await self._pair.drained(),
            learned_s=answered.asked_s - killed_s,
        )

    async def _finish(self, number: int, document: Document) -> _Answered:
        """At the decode node: wait for what comes, and answer."""
        watch = Watch(self._chunks(number), self._patience_s)
        last = await self._pair.decode.watch(watch)
        asked_s = time.monotonic()
        decoded = await self._answer(document, PrefixFrom.PENSTOCK)
        return _Answered(last, asked_s, decoded)

    async def _while_pushing(
        self, push: Push, meanwhile: Callable[[], Awaitable[T]]
    ) -> tuple[Pushed, T]:
        """Both to their ends. Raises ProcessFailed."""
        pushed: list[Pushed] = []
        made: list[T] = []
        failures: list[ProcessFailed] = []

        async def keep(kept: list[Any], work: Awaitable[object]) -> None:
            try:
                kept.append(await work)
            except ProcessFailed as failed:  # alone, not as one of a group
                failures.append(failed)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep, pushed, self._pair.prefill.push(push))
            await keep(made, meanwhile())
        if failures:
            self._pair.check_running()
            raise failures[0]
        return pushed[0], made[0]

    async def _expect(self, text: str, request_id: str) -> None:
        await self._pair.decode.wait(Expect(text, request_id, self._patience_s))

    async def _answer(self, document: Document, prefix_from: PrefixFrom) -> Generation:
        asked = Generate(prompt(document, 0), self._options.answer_tokens, prefix_from)
        return await self._pair.decode.generate(asked)

    def _chunks(self, number: int) -> int:
        """That two engines share; the last token is computed by both."""
        return (self._truths[number].prompt_tokens - 1) // CHUNK_TOKENS

    def _next_request(self) -> str:
        self._requests += 1
        return f"demo-{self._requests}"

    @property
    def _patience_s(self) -> float:
        return self._options.answer_within_s * 0.9  # below what a worker's answer may take
