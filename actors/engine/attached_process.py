"""A client's life in an engine process, and what it can say and be asked without the name of a prompt."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from anyio import CancelScope, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup

from penstock.actors.engine.accounts import Accounts, ClientStatistics
from penstock.actors.engine.arguments import read_wait, read_within
from penstock.actors.engine.config import ClientConfig, Start
from penstock.actors.engine.errors import ClientClosed
from penstock.actors.engine.forks import HomeProcess, tell_if_forks_crash
from penstock.actors.engine.link import Link
from penstock.actors.engine.mover import Mover
from penstock.actors.engine.prompt_naming import PromptNames
from penstock.actors.engine.spec import EngineSpec
from penstock.protos import engine_pb2
from penstock.runtime.deadline import time_left
from penstock.runtime.errors import PenstockError
from penstock.runtime.log import Log


class AttachedProcess:
    """One process of an engine, from entering to leaving. Belongs to the event loop that entered it.

    MADE --async with--> ENTERED (attached, or attaching again by itself) --end of the block--> LEFT
    """

    def __init__(self, config: ClientConfig, spec: EngineSpec) -> None:
        self.config = config
        self.spec = spec
        self._home = HomeProcess()
        self._log = Log("engine")
        self._mover = Mover(copies_max=config.copies_max, copy_threads=config.copy_threads)
        self._link = Link(config, spec, self._mover, self._log)
        self._prompts = PromptNames(memory_bytes_max=config.prompt_memory_bytes_max, log=self._log)
        self._tasks: TaskGroup | None = None  # while entered
        self._accounts = Accounts(self._log)

    @classmethod
    def connect(cls, config: ClientConfig, spec: EngineSpec) -> Self:
        """A client, to be entered with `async with`.

        Entering raises NodeAway when no node answered within attach_within_s (unless Start.DETACHED), and what no
        retry can cure at once: AccessDenied, VersionMismatch, DeclarationMismatch, NamespaceMismatch, RequestRefused.
        """
        return cls(config, spec)

    async def __aenter__(self) -> Self:
        assert self._tasks is None, "a client is entered once"
        tell_if_forks_crash(self._log)
        self._tasks = create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._link.run, name="penstock link")
        if self.config.start is Start.ATTACHED:
            try:
                await self._link.wait_attached(within=self.config.attach_within_s)
            except (PenstockError, get_cancelled_exc_class()):
                await self._leave(None)
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Only a cancellation is the task group's business: the caller's own errors pass as they are.
        await self._leave(error if isinstance(error, get_cancelled_exc_class()) else None)

    async def _leave(self, error: BaseException | None) -> None:
        tasks, self._tasks = self._tasks, None
        assert tasks is not None
        with CancelScope(shield=True):
            await self._link.close()
        self._mover.close()
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(type(error) if error is not None else None, error, None)

    # Tools.

    async def stat(self, *, within: float | None = None) -> engine_pb2.StatReply:
        """The node's gauges. `within`: seconds to wait; None: `request_within_s`.

        Raises NodeAway, DeadlineExceeded and the like: it is not excused.
        """
        self._check()
        return await self._link.current().stat(within=read_within(within))

    async def health(self, *, within: float | None = None) -> engine_pb2.HealthReply:
        """Whether each part of the node does its work. `within` as in `stat`.

        Raises NodeAway, AccessDenied, DeadlineExceeded.
        """
        self._check()
        given = read_within(within)
        at_most = self.config.request_within_s if given is None else given
        return await self._link.health(within=time_left(at_most=at_most))

    async def wait_attached(self, *, within: float) -> None:
        """Wait until a node is attached. Raises NodeAway after `within` seconds, or at once what no retry can cure."""
        self._check()
        await self._link.wait_attached(within=read_wait(within))

    @property
    def is_attached(self) -> bool:
        """Whether a session is attached just now; every request is a miss while none is."""
        return self._link.is_attached

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk at the attached node. Raises NodeAway."""
        return self._link.current().chunk_tokens

    def statistics(self) -> ClientStatistics:
        """What was asked, moved and excused since the client was made."""
        return self._accounts.statistics(attachments=self._link.attachments)

    def _check(self) -> None:
        self._home.check()
        if self._tasks is None:
            raise ClientClosed("the client is used outside its `async with`")
