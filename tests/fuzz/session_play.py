"""Plays one input against a fresh node, and checks after it that nothing was lost, leaked, hung or held too long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import session_checks
import session_requests
from anyio import create_task_group, fail_after
from anyio.abc import TaskGroup
from session_client import Aborted, Context, Violation
from session_growth import grown
from session_input import Input, Kind, Step, has_symbol, resolve_symbols
from session_ledger import Ledger
from session_world import World, deafen, running

from penstock.actors.api import control, session
from penstock.runtime.errors import PenstockError
from penstock.runtime.sim_loop import Simulation
from penstock.runtime.watchdog import SlowStep, Watchdog

# The last two streams come over TCP: from this machine, and from another, with which no memory is shared.
PEERS = ("unix:", "unix:", "ipv4:127.0.0.1:4711", "ipv4:192.0.2.1:4711")
SLACK_S = 5.0  # virtual; beyond the longest deadline
NOTED_MS_MIN = 0.5  # faster steps are not worth the note
PLAYER = "task _play"  # begins the name of the client's own task, which is not the node's


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one input."""

    slowest: SlowStep
    replies: dict[str, int]  # by body
    refusals: dict[int, int]  # by error code


class Stopwatch:
    """Notes the slowest step of any loop while it watches."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.slowest = SlowStep("", 0.0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        dog = Watchdog(clock=self._clock, step_ms_max=NOTED_MS_MIN, on_slow=self._note)
        with dog.watching():
            yield

    def take(self) -> SlowStep:
        """The slowest step since the last take."""
        slowest, self.slowest = self.slowest, SlowStep("", 0.0)
        return slowest

    def _note(self, step: SlowStep) -> None:
        if not step.name.startswith(PLAYER) and step.took_ms > self.slowest.took_ms:
            self.slowest = step


def play(data: bytes, stopwatch: Stopwatch) -> Played:
    """Raises Violation, also for a bug that came out of the node; the same bytes do the same again."""
    given = _grown(Input.decode(data))
    simulation = Simulation(given.order)
    deafen(simulation.loop)
    stopwatch.take()
    try:
        ledger = simulation.run(lambda: _play(given))
    except (BaseExceptionGroup, PenstockError, RuntimeError) as raised:
        bug = _innermost(raised)
        if isinstance(bug, Violation | KeyboardInterrupt):
            raise bug from None
        raise Violation(f"{type(bug).__name__}: {bug}") from bug
    return Played(stopwatch.take(), dict(ledger.replies), dict(ledger.refusals))


def _grown(given: Input) -> Input:
    """GROW steps as the messages they stand for, made beforehand, off the loop whose steps are timed."""
    return given.with_steps(
        [replace(one, payload=grown(one)) if one.kind is Kind.GROW else one for one in given.steps]
    )


def _innermost(bug: BaseException) -> BaseException:
    """The first bug itself, with what the groups around it say noted on it."""
    while isinstance(bug, BaseExceptionGroup):
        bug = bug.exceptions[0]
    return bug


async def _play(given: Input) -> Ledger:
    async with running(given.profile) as world, create_task_group() as tasks:
        player = Player(world, tasks)
        await player.admit_neighbour()
        for step in given.steps:
            await player.take(step)
            session_checks.check_bounds(world)
        await player.finish()
        return player.ledger
    raise Violation("the node was cancelled by none of its own")


@dataclass(frozen=True, slots=True)
class Entered:
    """A process that has the arena mapped, whatever becomes of its stream."""

    place: int  # of its stream
    context: Context


class Player:
    """Four streams to fuzz, and a neighbour that must not suffer."""

    def __init__(self, world: World, tasks: TaskGroup) -> None:
        self._world = world
        self._tasks = tasks
        self.ledger = Ledger(world.config.l1.bytes)
        self._streams: list[Context | None] = [None] * len(PEERS)
        self._opened: list[Context] = []  # all there ever were
        self._entered: dict[bytes, Entered] = {}  # by session secret
        self._neighbour = self._open("unix:")
        self._answer_s = world.limits.deadline_ms_max / 1000 + SLACK_S
        self._act: dict[Kind, Callable[[Step], Awaitable[None]]] = {
            Kind.MESSAGE: self._message,
            Kind.GROW: self._message,
            Kind.HANG_UP: self._hang_up,
            Kind.CANCEL: self._cancel,
            Kind.WAIT: self._wait,
            Kind.STOP_READING: self._stop_reading,
            Kind.READ_ON: self._read_on,
            Kind.ENTER_ARENA: self._enter_arena,
            Kind.PROCESS_EXITS: self._process_exits,
            Kind.PURGE: self._purge,
        }

    async def take(self, step: Step) -> None:
        await self._act[step.kind](step)

    # The steps.

    async def _message(self, step: Step) -> None:
        raw = step.payload
        if has_symbol(raw):
            await self._settle()  # so that the ids it speaks of are known
            raw = resolve_symbols(raw, self.ledger.find)
        stream = self._streams[step.stream]
        if stream is None or not stream.is_live:
            stream = self._streams[step.stream] = self._open(PEERS[step.stream])
        stream.send(raw)

    async def _hang_up(self, step: Step) -> None:
        stream = self._streams[step.stream]
        if stream is not None and stream.is_live:
            stream.hang_up()

    async def _cancel(self, step: Step) -> None:
        stream = self._streams[step.stream]
        if stream is not None and not stream.is_over:
            stream.cancel()

    async def _wait(self, step: Step) -> None:
        await asyncio.sleep(step.wait_s)

    async def _stop_reading(self, step: Step) -> None:
        stream = self._streams[step.stream]
        if stream is not None and stream.is_live:
            stream.stop_reading()

    async def _read_on(self, step: Step) -> None:
        stream = self._streams[step.stream]
        if stream is not None and stream.is_live:
            stream.read_on()

    async def _enter_arena(self, step: Step) -> None:
        await self._settle()
        stream = self._streams[step.stream]
        if stream is None or stream.welcome is None or not stream.welcome.arena_socket:
            return
        secret = stream.welcome.session_secret
        attached = self._world.keeper._attachments.by_secret(secret)
        if stream.is_live and attached is not None and not attached.has_entered:
            await self._world.sessions.ask(session.Enter(secret), within=SLACK_S)
            self._entered[secret] = Entered(step.stream, stream)

    async def _process_exits(self, step: Step) -> None:
        """Of the processes whose stream had this place, the one that entered first."""
        mine = [secret for secret, one in self._entered.items() if one.place == step.stream]
        for secret in mine[:1]:
            await self._prove_gone(secret)

    async def _purge(self, step: Step) -> None:
        await self._world.control.ask(control.PurgeL1(), within=SLACK_S)

    # Streams.

    def _open(self, peer: str) -> Context:
        context = Context(peer, self.ledger)
        self._opened.append(context)
        self._tasks.start_soon(self._serve, context, name=f"handler of {peer}")
        return context

    async def _serve(self, context: Context) -> None:
        """What gRPC does with a call: run the handler, in a task that the client's cancelling cancels."""
        try:
            with context.cancellable():
                if not context.is_cancelled:  # before its handler has begun
                    await self._world.streams.serve(None, context)  # type: ignore[arg-type]
        except Aborted:
            pass
        context.end()
        if context.welcome is None or context.welcome.session_secret not in self._entered:
            self.ledger.forget(context)

    async def _prove_gone(self, secret: bytes) -> None:
        entered = self._entered.pop(secret)
        self.ledger.forget(entered.context)
        attached = self._world.keeper._attachments.by_secret(secret)
        if attached is not None:
            gone = session.ProcessExited(attached.session)
            await self._world.sessions.tell(gone, within=SLACK_S)

    async def _settle(self) -> None:
        """Until everything that can be answered is answered."""
        for stream in (self._neighbour, *self._streams):
            if stream is None:
                continue
            try:
                with fail_after(self._answer_s):
                    await stream.wait_answered()
            except TimeoutError:
                waiting = [str(one.request or one.raw)[:200] for one in stream.unanswered]
                raise Violation(f"unanswered after {self._answer_s:g} s: {waiting}") from None

    # Before and after.

    async def admit_neighbour(self) -> None:
        greeting = session_requests.hello(instance=99)
        self._neighbour.send(greeting.SerializeToString())
        await self._settle()
        if self._neighbour.welcome is None:
            raise Violation("the first session was not welcome")

    async def finish(self) -> None:
        """Demand liveness of all that is left, then end it, and look for what stays behind."""
        living = [one for one in self._streams if one is not None and one.is_live]
        for stream in living:
            stream.read_on()
        await self._settle()
        for stream in living:
            if stream.is_live:
                stream.send(session_requests.heartbeat(1 << 40).SerializeToString())
        await self._settle()
        await self._check_neighbour()
        await self._wait_over([one for one in self._opened if not one.is_live])
        await self._ask_count()
        session_checks.check_counted(self._world)
        await self._end_all()
        session_checks.check_nothing_held(self._world)
        await self._world.control.ask(control.PurgeL1(), within=SLACK_S)
        session_checks.check_empty(self._world)
        session_checks.check_actors(self._world)

    async def _check_neighbour(self) -> None:
        # Under a salt of its own, so that its keys are nobody else's.
        ours = session_requests.prompt(chunks=2, salt=b"neighbour", tokens=True)
        for request in (
            session_requests.heartbeat(),
            session_requests.stat(),
            session_requests.touch(ours),
            session_requests.prefetch(ours),
        ):
            self._neighbour.send(request.SerializeToString())
        await self._settle()
        if not self._neighbour.is_live or self._neighbour.refusal is not None:
            refusal = self._neighbour.refusal
            raise Violation(f"a session that did nothing wrong is not served: {refusal}")

    async def _end_all(self) -> None:
        self._world.table.validate()
        for stream in (self._neighbour, *self._streams):
            if stream is not None and stream.is_live:
                stream.hang_up()
        await self._wait_over(self._opened)
        session_checks.require(self._world.streams._open == 0, "an ended stream counts as open")
        self.ledger.deliver()
        for context in self._opened:
            if not context.has_hung_up:
                session_checks.check_end(context)
        await self._ask_count()
        for secret in list(self._entered):
            await self._prove_gone(secret)
        if (left := await self._ask_count()) != 0:
            raise Violation(f"{left} sessions count as attached after every stream has ended")

    async def _wait_over(self, ending: list[Context]) -> None:
        try:
            with fail_after(self._answer_s):
                for context in ending:
                    await context.wait_over()
        except TimeoutError:
            raise Violation(f"{self._world.streams._open} streams did not end") from None

    async def _ask_count(self) -> int:
        """The sessions attached; all news that the keeper had before are served by then."""
        return await self._world.sessions.ask(session.Count(), within=SLACK_S)
