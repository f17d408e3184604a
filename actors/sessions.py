"""The session keeper: who is attached, and when the memory of those who left may be used again.

Rules are in `core.attachments`; here they meet the L1 manager, the gateway and the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, assert_never

from anyio.lowlevel import checkpoint

from penstock.actors.api import gateway, l1, session
from penstock.actors.api.types import Epoch, GeometryId, SessionId
from penstock.actors.arena_door import ArenaDoor
from penstock.actors.core.attachments import Attachments, Session
from penstock.runtime.errors import (
    ActorStopped,
    CallerError,
    CapacityError,
    DeadlineExceeded,
    MailboxFull,
    StaleError,
)
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.message import Msg, answer
from penstock.runtime.ref import Ref

R = TypeVar("R")
STEP_OBJECTS_MAX = 4096  # of a leaver's leases, and chunks of its tickets, in one step of the loop


@dataclass(frozen=True, slots=True)
class SessionLimits:
    sessions_max: int  # attached and lost, over all engine instances
    namespaces_max: int  # declared in one epoch
    ask_s: float  # how long the L1 manager may take for one step


class Sessions(session.Sessions):
    def __init__(
        self,
        *,
        epoch: Epoch,
        limits: SessionLimits,
        own: Ref[session.Sessions],
        manager: Ref[l1.L1Manager],
        service: Ref[gateway.Gateway],
        door: ArenaDoor,
    ) -> None:
        self._epoch = epoch
        self._limits = limits
        self._l1 = manager
        self._gateway = service
        self._own = own
        self._door = door
        self._attachments = Attachments(
            sessions_max=limits.sessions_max, namespaces_max=limits.namespaces_max
        )
        self._log = Log("sessions")

    async def on_start(self) -> None:
        await self._door.open()
        self.start_soon(self._door.serve, self._own, name="arena door")

    async def receive(self, msg: session.Message) -> object:
        match msg:
            case session.Attach():
                return answer(msg, await self._attach(msg.declaration, msg.secret))
            case session.Abandoned():
                if (unheard := self._attachments.by_secret(msg.secret)) is not None:
                    await self._stream_ended(unheard.session)
                return answer(msg, None)
            case session.StreamEnded():
                await self._close_tickets(msg)
                await self._stream_ended(msg.session)
                return answer(msg, None)
            case session.ProcessExited():
                await self._process_exited(msg.session)
                return answer(msg, None)
            case session.Enter():
                entered = self._attachments.enter(msg.secret)
                return answer(msg, session.Door(entered.session, entered.moves_bytes))
            case session.FindGeometry():
                found = self._attachments.require_namespace(msg.namespace_digest)
                return answer(msg, session.Geometry(found.geometry, found.chunk_tokens))
            case session.Count():
                return answer(msg, sum(1 for _ in self._attachments.attached()))
            case _:
                assert_never(msg)

    async def _attach(self, declaration: session.Declaration, secret: bytes) -> session.Attached:
        """Cancelled at any await it leaves at most a geometry nobody uses yet, which the next attach finds."""
        gave_up = await self._give_up(declaration)
        self._attachments.check_room(declaration)
        if self._attachments.namespace(declaration.namespace_digest) is None:
            geometry = await self._ask_geometry(declaration)
            self._attachments.add_namespace(declaration, geometry)
        await hazard("sessions.before_attach")
        drawn, instance = self._attachments.draw_ids(declaration)
        self._l1.tell_nowait(l1.Attach(drawn, instance))  # raises before anything is kept here
        opened = self._attachments.attach(declaration, drawn, instance, secret)
        self._log.info("attached", session=opened.session, client=opened.client)
        namespace = self._attachments.require_namespace(declaration.namespace_digest)
        return session.Attached(opened.session, opened.instance, namespace.geometry, gave_up)

    async def _ask_geometry(self, declaration: session.Declaration) -> GeometryId:
        asked = l1.AddGeometry(declaration.groups, declaration.namespace_digest)
        return await self._l1.ask(asked, within=self._limits.ask_s)

    async def _give_up(self, declaration: session.Declaration) -> int:
        """The owner resumes: it says that it touches nothing of its former session any more."""
        if not declaration.resume or declaration.resume_epoch != self._epoch:
            return 0
        former = self._attachments.resumable(declaration)
        if former is None:
            return 0
        # The asker may give up while we wait: then the former session has still what was not given up, and can be
        # resumed again.
        leases = 0
        is_over = False
        while not is_over:
            step = l1.EndSome(former.session, STEP_OBJECTS_MAX)
            ended = await self._l1.ask(step, within=self._limits.ask_s)
            leases, is_over = leases + ended.count, ended.is_over
            await hazard("sessions.between_steps")
            await checkpoint()
        leases += await self._l1.ask(l1.GiveUp(former.session), within=self._limits.ask_s)
        await hazard("sessions.after_give_up")
        self._end_stream(former, "resumed by a new stream")
        self._attachments.forget(former)
        self._door.dismiss(former.session)
        self._log.info("resumed", session=former.session, gave_up=leases)
        return leases

    async def _stream_ended(self, ended: SessionId) -> None:
        former = self._attachments.find(ended)
        if former is None:
            return  # its process was proven gone before its stream ended, or it was resumed
        # Refused, it may still hold leases: then only its process's end frees their memory.
        await self._insist_in_steps(l1.OrphanSome(ended, STEP_OBJECTS_MAX))
        left = await self._insist(l1.StreamLost(ended), 1)
        await hazard("sessions.after_stream_lost")
        if self._attachments.lose(former, leases_left=left):
            self._door.dismiss(ended)
            await self._insist_in_steps(l1.EndSome(ended, STEP_OBJECTS_MAX))
            await self._insist(l1.ProcessGone(ended), 0)
            self._log.info("detached", session=ended, client=former.client)
        else:
            self._log.warning("stream_lost", session=ended, client=former.client, leases_left=left)
        await self._end_instance(former)

    async def _process_exited(self, exited: SessionId) -> None:
        former = self._attachments.find(exited)
        if former is None:
            return
        self._end_stream(former, "its process is gone")
        self._attachments.forget(former)
        leases = await self._insist_in_steps(l1.EndSome(exited, STEP_OBJECTS_MAX))
        leases += await self._insist(l1.ProcessGone(exited), 0)
        self._log.info("process_gone", session=exited, client=former.client, leases_freed=leases)
        await self._end_instance(former)

    async def _end_instance(self, former: Session) -> None:
        """Nobody is left who could use the instance's tickets: their pins go."""
        if self._attachments.is_over(former.instance):
            await self._insist_in_steps(l1.CloseSome(former.instance, STEP_OBJECTS_MAX))

    async def _close_tickets(self, ended: session.StreamEnded) -> None:
        tickets = ended.tickets
        while tickets:
            close = l1.CloseTickets(tickets, ended.instance, ended.session)
            closed = await self._insist(close, l1.Closed(0, len(tickets)))
            tickets = tickets[closed.seen :]
            await checkpoint()

    async def _insist_in_steps(self, step: l1.OrphanSome | l1.EndSome | l1.CloseSome) -> int:
        """Until nothing is left to do, between other work of the loop. How many leases or tickets that were."""
        count = 0
        is_over = False
        while not is_over:
            ended = await self._insist(step, l1.Ended(0, is_over=True))
            count, is_over = count + ended.count, ended.is_over
            await hazard("sessions.between_steps")
            await checkpoint()  # an ask of an idle L1 manager is no turn of the loop
        return count

    async def _insist(self, msg: Msg[l1.L1Manager, R], otherwise: R) -> R:
        """Ask L1 on behalf of somebody who has left, and to whom no refusal can be told: an end goes on to its end.

        An answer that is late is asked for again, since L1 is busy and not gone; a refusal counts as `otherwise`.
        """
        while True:
            try:
                return await self._l1.ask(msg, within=self._limits.ask_s)
            except DeadlineExceeded:
                self._log.warning_once("l1_is_late", message=type(msg).__name__)
            except (CallerError, CapacityError, StaleError) as refusal:
                self._log.warning("end_refused", message=type(msg).__name__, reason=str(refusal))
                return otherwise

    def _end_stream(self, former: Session, reason: str) -> None:
        try:
            self._gateway.tell_nowait(gateway.EndSession(former.session, reason))
        except (MailboxFull, ActorStopped):  # the node stops from its edge inwards
            self._log.warning("stream_not_ended", session=former.session, reason=reason)
