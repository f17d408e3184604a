"""What a peer says has come to it damaged, looked at here: the listener's side of `ReadRequest.doubted`.

    doubted -> borrowed, one object at a time -> digested, off the loop -> whole: it stays, and the peer was wrong
                                                              '--> damaged: it leaves L1, as if a reader had told it

A peer's word alone moves nothing: what is dropped is what this node itself has found damaged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from penstock.actors.api import l1, l1_saving
from penstock.actors.api.errors import InvalidField
from penstock.actors.api.types import NODE_SESSION, Memory, Shape
from penstock.actors.load_targets import whole_pages
from penstock.actors.peer_metrics import ServedMetrics
from penstock.actors.stores.digests import Digester, runs_agree
from penstock.actors.stores.peer_doubts import DOUBT, DOUBTS_MAX
from penstock.runtime.errors import PenstockError, forget_frames
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

SHARE_MAX = 0.1  # of the time, that is given to a peer which doubts what is whole
PEERS_MAX = 1024  # remembered as having been wrong


class PeerProofs:
    """Of all peers of one node. One object is looked at at a time; what comes meanwhile is passed over, and is doubted
    again when it has come damaged again. Belongs to the loop."""

    def __init__(
        self,
        manager: Ref[l1.L1Manager],
        memory: Memory,
        digester: Digester,
        metrics: ServedMetrics,
        *,
        ask_s: float,
    ) -> None:
        self._l1 = manager
        self._memory = memory
        self._digester = digester
        self._metrics = metrics
        self._ask_s = ask_s
        self._is_busy = False
        self._unheard_until_s: dict[str, float] = {}  # peers that were wrong
        self._log = Log("peer_proofs")

    async def look(self, node_id: str, shapes: Sequence[Shape], doubted: bytes) -> None:
        """Drop what is damaged of it. Given up, it holds nothing. Raises InvalidField, and what L1 refuses."""
        if len(doubted) % DOUBT.size or len(doubted) > DOUBTS_MAX * DOUBT.size:
            raise InvalidField(
                "doubted", f"{DOUBT.size} bytes each, at most {DOUBTS_MAX}: not {len(doubted)}"
            )
        now = asyncio.get_running_loop().time()
        if self._is_busy or now < self._unheard_until_s.get(node_id, 0.0):
            return
        self._is_busy = True
        try:
            for chunk, slot in DOUBT.iter_unpack(doubted):
                for shape in shapes:
                    if slot < len(shape.slots) and not await self._is_damaged(
                        node_id, shape, chunk, slot
                    ):
                        self._was_wrong(node_id, now)
        finally:
            self._is_busy = False

    def _was_wrong(self, node_id: str, began_s: float) -> None:
        now = asyncio.get_running_loop().time()
        self._unheard_until_s.pop(node_id, None)
        self._unheard_until_s[node_id] = now + (now - began_s) * (1 / SHARE_MAX - 1)
        while len(self._unheard_until_s) > PEERS_MAX:
            del self._unheard_until_s[next(iter(self._unheard_until_s))]

    async def _is_damaged(self, node_id: str, shape: Shape, chunk: bytes, slot: int) -> bool:
        """What is not here any more neither is, nor was the peer wrong: True, too."""
        wanted = bytearray(len(shape.slots))
        wanted[slot] = 1
        borrow = l1_saving.Borrow(chunk, shape.geometry, bytes(wanted))
        for batch in await self._l1.ask(borrow, within=self._ask_s):
            (one,) = batch
            is_whole = False
            try:
                payload = self._memory.view(one.offset, whole_pages(one.logical_bytes))
                (digest,) = await self._digester.of([payload[: one.logical_bytes]])
                is_whole = digest == one.digest and runs_agree(
                    one.digest, one.run_digests, one.logical_bytes
                )
            except asyncio.CancelledError as given_up:
                forget_frames(given_up)  # they would hold what was borrowed
                with suppress(PenstockError):
                    self._l1.ask_now(l1_saving.LetGo(batch.lease))
                raise
            damaged = () if is_whole else (0,)
            await self._l1.ask(l1.Release(batch.lease, NODE_SESSION, damaged), within=self._ask_s)
            self._metrics.doubted(node_id, "whole" if is_whole else "damaged")
            if is_whole:
                return False
            self._log.warning("damaged_in_l1", chunk=chunk.hex(), slot=slot, told_by=node_id)
        return True
