"""How the reference engine takes part in prefill and decode on two nodes: what it computes is pushed while it computes,
what it expects is watched as it comes. Blocking; one prompt at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from penstock._native import PagedLayout
from penstock.actors.api.pd import Sent, SentState
from penstock.actors.api.pd_wire import Reason
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.blocking_ticket import BlockingTicket
from penstock.actors.engine.blocking_transfer import BlockingTransfer
from penstock.actors.engine.counting import Stored
from penstock.actors.engine.reference_messages import Generation, Pool, Pushed, Watched
from penstock.runtime.errors import CallerError

_STORE_WITHIN_S = 30.0  # one chunk; beyond it, the decode engine computes it
_GRACE_S = 2.0  # of the node, beyond what the push may take


class NothingExpected(CallerError):
    """Yours: there is no prompt of which something could have come."""


@dataclass(slots=True, kw_only=True)
class Pushing:
    """One prompt that is pushed while it is computed."""

    client: BlockingClient
    layout: PagedLayout
    chunk_tokens: int
    transfer: BlockingTransfer
    within_s: float
    begun_s: float
    stand_still_after: int = 0  # chunks; 0: never
    computing_s: float = 0.0  # when the engine began
    first_chunk_s: float = 0.0
    over_s: float = 0.0
    stores: list[Future[Stored]] = field(default_factory=list)
    over: Future[Sent] = field(init=False)

    def __post_init__(self) -> None:
        self.over = self.transfer.over()
        self.over.add_done_callback(self._note_end)

    def _note_end(self, over: Future[Sent]) -> None:
        self.over_s = time.monotonic()

    def computed(self, prompt: Sequence[int], blocks: Sequence[int]) -> None:
        """Store the newest chunk, the last one of `prompt`; the engine goes on computing meanwhile."""
        newest = len(prompt) // self.chunk_tokens - 1
        self.first_chunk_s = self.first_chunk_s or time.monotonic()
        stored = self.client.store(
            prompt, [self.layout], [blocks], first_chunk=newest, within=_STORE_WITHIN_S
        )
        self.stores.append(stored)
        if len(self.stores) == self.stand_still_after:
            self._wait()

    def finish(self, generation: Generation | None) -> Pushed:
        """Wait until the push is over. Of what was stored before, the first chunk is there from the start."""
        for stored in self.stores:
            stored.result()
        prefilled_s = self.begun_s if generation is None else self.computing_s + generation.ttft_s
        self._wait()
        sent = self.transfer.sent
        failure = ""
        if sent.state is not SentState.COMMITTED:
            reason = sent.state.name if sent.reason is None else sent.reason.name
            failure = f"{reason} {sent.text}".strip()
        return Pushed(
            generation=generation,
            begun_s=self.begun_s,
            first_chunk_s=self.first_chunk_s or self.begun_s,
            prefilled_s=prefilled_s,
            over_s=self.over_s or time.monotonic(),
            bytes=sent.bytes,
            held_bytes=sent.held_bytes,
            failure=failure,
            is_let_go=sent.reason is Reason.CANCELLED,
        )

    def _wait(self) -> None:
        """Until it is over, or should have been long ago."""
        with suppress(TimeoutError):
            self.over.result(timeout=self.within_s + _GRACE_S)


class PdSide:
    """What an engine asks of its node for a prompt that two engines work on."""

    def __init__(self, client: BlockingClient, layout: PagedLayout) -> None:
        self._client, self._layout = client, layout
        self._chunk_tokens = client.chunk_tokens  # also while the node is away
        self._prompt: tuple[int, ...] = ()
        self._ticket: BlockingTicket | None = None  # of what is expected

    def push(
        self, prompt: Sequence[int], *, target: str, request_id: str, within_s: float
    ) -> Pushing:
        """Have the chunks of `prompt` pushed: those that are stored now, and those that will be."""
        begun_s = time.monotonic()
        asked = self._client.pd_send(
            self._shared(prompt), target=target, request_id=request_id, transfer_s=within_s
        )
        return Pushing(
            client=self._client,
            layout=self._layout,
            chunk_tokens=self._chunk_tokens,
            transfer=asked.result(),
            within_s=within_s,
            begun_s=begun_s,
        )

    def expect(self, prompt: Sequence[int], *, request_id: str, within_s: float) -> None:
        """From now on, until it is looked up or abandoned."""
        self.abandon()
        shared = self._shared(prompt)
        asked = self._client.pd_expect(shared, request_id=request_id, transfer_s=within_s)
        self._prompt, self._ticket = tuple(shared), asked.result()

    def watch(self, chunks: int, *, within_s: float) -> Watched:
        """Wait for `chunks` of it, at most `within_s`. Raises NothingExpected."""
        ticket = self._expected()
        for hit_chunks in ticket.progress(within=within_s):
            if hit_chunks >= chunks:
                break
        is_final = ticket.is_final
        return Watched(ticket.hit_chunks, ticket.total_chunks, is_final, ticket.shortfall.name)

    def is_expected(self, prompt: Sequence[int]) -> bool:
        """Whether this is the prompt that is expected."""
        return self._ticket is not None and self._prompt == tuple(prompt)

    def take(self) -> BlockingTicket:
        """Its ticket, which is the caller's from now on. Raises NothingExpected."""
        ticket, self._ticket, self._prompt = self._expected(), None, ()
        return ticket

    def abandon(self) -> None:
        """Expect nothing any more."""
        if self._ticket is not None:
            self.take().cancel()

    def pool(self) -> Pool:
        """The node's memory for what others push."""
        stat = self._client.stat().result()
        return Pool(stat.pd_bytes, stat.pd_free_bytes, stat.pd_quarantined_bytes)

    def _expected(self) -> BlockingTicket:
        if self._ticket is None:
            raise NothingExpected("no prompt is expected to be pushed here")
        return self._ticket

    def _shared(self, prompt: Sequence[int]) -> Sequence[int]:
        """What two engines share of a prompt: its last token is computed by both, for its logits."""
        return prompt[: (len(prompt) - 1) // self._chunk_tokens * self._chunk_tokens]
