"""How the reference engine reaches Penstock: the public client behind three blocking calls."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from penstock._native import Copier, PagedLayout
from penstock.actors.core.namespace import config_digest
from penstock.actors.engine.answers import SaveState
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.blocking_ticket import BlockingTicket
from penstock.actors.engine.client import ClientConfig, new_engine_instance, plain_model
from penstock.actors.engine.errors import EXCUSED
from penstock.actors.engine.key_record import write_key_record
from penstock.actors.engine.layout_probe import probe
from penstock.actors.engine.reference_config import ModelShape
from penstock.actors.engine.reference_kv import PagedKv
from penstock.actors.engine.reference_pd import PdSide
from penstock.runtime.errors import UnavailableError

_ATTACH_WITHIN_S = 60.0  # the node may be starting, or waiting for memory
_MOVE_WITHIN_S = 30.0  # one load or store; beyond it, the engine computes
_DTYPE = "bfloat16"


class NotStored(UnavailableError):
    """Theirs: what was stored is not on every store of the node; says what became of it."""


class PenstockConnection:
    """A `KvConnection` over one attached client. What the node cannot give is a miss, never an
    error."""

    def __init__(
        self, client: BlockingClient, layout: PagedLayout, *, record_to: Path | None = None
    ) -> None:
        self._client = client
        self._layout = layout
        self._record_to = record_to  # takes the keys of the last prompt; None: nothing is recorded
        self._ticket: BlockingTicket | None = None  # of the last lookup, while it pins something
        self.pd = PdSide(client, layout)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk, as the node said."""
        return self._client.chunk_tokens

    def lookup(self, prompt: Sequence[int]) -> int:
        """Tokens of `prompt`, from its start, that can be loaded now. They stay pinned until the
        load."""
        if not self.pd.is_expected(prompt):
            self.pd.abandon()
            self._end_ticket()
            self._record(prompt)
            self._ticket = self._client.lookup(prompt).result()
        else:
            self._ticket = self.pd.take()
        self._ticket.ready().result()
        return self._ticket.hit_tokens

    def load(self, blocks: Sequence[int]) -> int:
        """Copy what the last lookup found into `blocks`; returns the tokens that proved whole."""
        assert self._ticket is not None, "look up before you load"
        moved = self._client.load(self._ticket, [self._layout], [blocks], within=_MOVE_WITHIN_S)
        loaded = moved.result()
        self._end_ticket()
        return loaded.tokens

    def store(self, prompt: Sequence[int], blocks: Sequence[int]) -> int:
        """Copy the chunks of `prompt` that nobody has stored yet; returns the bytes written."""
        self._record(prompt)
        moved = self._client.store(prompt, [self._layout], [blocks], within=_MOVE_WITHIN_S)
        return moved.result().bytes

    def wait_stored(self, prompt: Sequence[int], *, within_s: float) -> None:
        """Wait until the node's stores have every whole chunk of `prompt`. Raises NotStored."""
        saves = self._client.wait_stored(prompt, within=within_s).result()
        others = Counter(
            state for state in map(SaveState, saves.states) if state != SaveState.SAVED
        )
        if others or not saves.states:
            found = ", ".join(f"{count} {state.name}" for state, count in others.items())
            raise NotStored(
                f"of {len(saves.states)} objects at the stores {found or 'none is told of'}"
                f" after {within_s:g} s"
            )

    def wait_attached(self, *, within_s: float) -> None:
        """Wait until the node answers. Raises NodeAway and the like after `within_s`."""
        ends_s = time.monotonic() + within_s
        while True:
            left_s = max(0.0, ends_s - time.monotonic())
            self._client.wait_attached(within=left_s).result()
            try:
                self._client.stat(within=left_s).result()
            except EXCUSED:  # attached to a node that has gone: it was not noticed yet
                if time.monotonic() >= ends_s:
                    raise
            else:
                return

    def _record(self, prompt: Sequence[int]) -> None:
        if self._record_to is not None and self._client.is_attached:
            write_key_record(self._record_to, self._client.record(prompt).result())

    def _end_ticket(self) -> None:
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None


@contextmanager
def connected(
    address: str,
    kv: PagedKv,
    *,
    shape: ModelShape,
    weights_digest: str,
    copy_threads: int,
    record_to: Path | None = None,
) -> Iterator[PenstockConnection]:
    """A connection to the node at `address` for an engine whose KV is `kv`.

    `record_to` takes what `penstock doctor keys` reads, of the last prompt that was looked up or stored.
    The layout is proven first. Raises LayoutUnproven; NodeAway when no node answers in time, and
    what else the client cannot mend by itself.
    """
    spec = plain_model(
        weights=f"reference:{weights_digest}",
        model_config_digest=config_digest(asdict(shape)),
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        dtype=_DTYPE,
        block_tokens=kv.size.block_tokens,
        engine_instance=new_engine_instance(),
        client=f"reference {shape.name} {kv.preset}",
    )
    config = ClientConfig(
        address=address, attach_within_s=_ATTACH_WITHIN_S, copy_threads=copy_threads
    )
    layout = kv.layout()
    probe(layout, kv.write_block, copier=Copier(threads=copy_threads))
    with BlockingClient.connect(config, spec) as client:
        yield PenstockConnection(client, layout, record_to=record_to)
