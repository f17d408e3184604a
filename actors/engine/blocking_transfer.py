"""A push of a prompt to another node, for threads: with futures where the asynchronous one is awaited.

transfer = client.pd_send(tokens, target="b", request_id="r1").result()
...                                             # compute and store
sent = transfer.over().result()
"""

from __future__ import annotations

from concurrent.futures import Future

from penstock.actors.api.pd import Sent
from penstock.actors.engine.arguments import read_instance
from penstock.actors.engine.blocking_writing import BlockingWriteLease
from penstock.actors.engine.client_thread import ClientThread
from penstock.actors.engine.pushes import PdTransfer


class BlockingTransfer:
    """`PdTransfer` for any number of threads. What it has come to is the newest this process was told."""

    def __init__(self, transfer: PdTransfer, thread: ClientThread) -> None:
        self._transfer = transfer  # belongs to `thread`; what it has come to may be read anywhere
        self._thread = thread

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._transfer)[1:]}"

    @property
    def sent(self) -> Sent:
        """`PdTransfer.sent`."""
        return self._transfer.sent

    @property
    def is_over(self) -> bool:
        """`PdTransfer.is_over`."""
        return self._transfer.is_over

    def over(self) -> Future[Sent]:
        """What it came to, once it is over. Raises as any request."""

        async def over() -> Sent:
            return await self._transfer

        return self._thread.submit(over)

    def wait(self, *, within: float) -> Future[Sent]:
        """`PdTransfer.wait`."""
        return self._thread.submit(lambda: self._transfer.wait(within=within))

    def layers(
        self,
        lease: BlockingWriteLease,
        first_layer: int,
        count: int = 1,
        *,
        within: float | None = None,
    ) -> Future[int]:
        """`PdTransfer.layers`, of a lease of the same client."""

        async def layers() -> int:
            ours = read_instance("lease", lease, BlockingWriteLease, what="reserve's result()")
            return await self._transfer.layers(
                ours.on(self._thread), first_layer, count, within=within
            )

        return self._thread.submit(layers)

    def cancel(self) -> None:
        """Push nothing more of it. Idempotent; never waits, never fails. Comes before every request made after it."""
        self._thread.do_soon(self._transfer.cancel_nowait)
