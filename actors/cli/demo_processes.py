"""The processes of the demo: how they are started, watched, asked and stopped."""

import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from penstock.actors.cli.attended import attended
from penstock.actors.engine.reference_messages import (
    Abandon,
    Answer,
    Done,
    Expect,
    Generate,
    Generated,
    Generation,
    LookAtPool,
    Pool,
    Push,
    PushAgain,
    Pushed,
    Ready,
    Refused,
    Request,
    WaitAttached,
    WaitStored,
    Watch,
    Watched,
)
from penstock.runtime.errors import UnavailableError

# The children share the cores. An OpenMP thread that spins at a barrier keeps the one it waits for
# from running: on a busy machine a prefill took 20 s instead of 4, on an idle one it makes no odds.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
_ANSWER_BYTES_MAX = 1 << 20  # one line of a worker; a real one is a few kilobytes
_LOG_LINES_SHOWN = 12
_LAST_WORDS_S = 2.0  # between the end of a process's output and its own end


class ProcessFailed(UnavailableError):
    """Theirs: a process of the demo ended, refused or fell silent; the message shows its last
    words."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process and the file that takes what it says."""

    name: str
    process: Process
    log: Path

    def check_running(self) -> None:
        """Raise ProcessFailed when the process has ended."""
        if self.process.returncode is not None:
            raise self.failed(f"ended with exit status {self.process.returncode}")

    async def kill(self) -> None:
        """End it as a crash would (SIGKILL); returns when it has ended."""
        self.process.kill()
        await self.process.wait()

    def failed(self, what: str) -> ProcessFailed:
        """The error that says `what` happened, with the end of the log."""
        with self.log.open(errors="replace") as log:
            tail = deque(log, maxlen=_LOG_LINES_SHOWN)
        said = "".join(f"\n    {line.rstrip()}" for line in tail) or " It said nothing."
        return ProcessFailed(f"{self.name} {what}. Its last words:{said}")


class Speech(Enum):
    """Where a child's standard streams go; what it complains about always goes to its log."""

    TO_LOG = "output to the log, no input"
    BY_PIPES = "both to this process"


@asynccontextmanager
async def running(
    name: str, command: Sequence[str], *, log: Path, speech: Speech, stop_within_s: float
) -> AsyncIterator[Child]:
    """Run `command` until the block ends; then ask it to stop, at last kill it."""
    with log.open("wb") as file:
        process = await anyio.open_process(
            attended(command),  # also a demo that is killed leaves nothing behind
            stdin=PIPE if speech is Speech.BY_PIPES else DEVNULL,
            stdout=PIPE if speech is Speech.BY_PIPES else file,
            stderr=file,
            env={**_ENVIRONMENT, **os.environ},
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops all in order
        )
    try:
        yield Child(name, process, log)
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process, within_s=stop_within_s)


async def _stop(process: Process, *, within_s: float) -> None:
    if process.returncode is None:
        process.terminate()
    with anyio.move_on_after(within_s):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()


class Worker:
    """One engine worker process, asked one thing at a time over its standard streams."""

    def __init__(self, child: Child, *, answer_within_s: float) -> None:
        stdout, stdin = child.process.stdout, child.process.stdin
        assert stdout is not None, "opened with pipes"
        assert stdin is not None, "opened with pipes"
        self._child, self._stdin = child, stdin
        self._answers = BufferedByteReceiveStream(stdout)
        self._decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
        self._answer_within_s = answer_within_s

    async def ready(self) -> Ready:
        """The worker's first word: its model is made and it is attached to the node."""
        answer = await self._receive()
        if isinstance(answer, Ready):
            return answer
        raise self._child.failed(f"said {type(answer).__name__} before it was ready")

    async def generate(self, request: Generate) -> Generation:
        """Ask and wait for the answer. Raises ProcessFailed when none comes."""
        answer = await self._ask(request)
        if isinstance(answer, Generated):
            return answer.generation
        raise self._child.failed(f"answered with {type(answer).__name__}")

    async def wait(self, request: WaitStored | WaitAttached | Expect | Abandon) -> None:
        """Wait for what it says. Raises ProcessFailed when that does not come."""
        answer = await self._ask(request)
        if not isinstance(answer, Done):
            raise self._child.failed(f"answered with {type(answer).__name__}")

    async def push(self, request: Push | PushAgain) -> Pushed:
        """Push, and wait until it is over. Raises ProcessFailed."""
        answer = await self._ask(request)
        if isinstance(answer, Pushed):
            return answer
        raise self._child.failed(f"answered with {type(answer).__name__}")

    async def watch(self, request: Watch) -> Watched:
        """Wait for what is expected. Raises ProcessFailed."""
        answer = await self._ask(request)
        if isinstance(answer, Watched):
            return answer
        raise self._child.failed(f"answered with {type(answer).__name__}")

    async def look_at_pool(self) -> Pool:
        """The node's memory for what others push. Raises ProcessFailed."""
        answer = await self._ask(LookAtPool())
        if isinstance(answer, Pool):
            return answer
        raise self._child.failed(f"answered with {type(answer).__name__}")

    async def _ask(self, request: Request) -> Generated | Done | Pushed | Watched | Pool:
        self._child.check_running()
        try:
            await self._stdin.send(msgspec.json.encode(request) + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise self._child.failed("does not listen any more") from error
        answer = await self._receive()
        match answer:
            case Generated() | Done() | Pushed() | Watched() | Pool():
                return answer
            case Refused(problem):
                raise self._child.failed(f"refused: {problem}")
            case Ready():
                raise self._child.failed("started twice")

    async def _receive(self) -> Answer:
        try:
            with anyio.fail_after(self._answer_within_s):
                line = await self._answers.receive_until(b"\n", _ANSWER_BYTES_MAX)
            return self._decoder.decode(line)
        except TimeoutError as error:
            raise self._child.failed(f"did not answer in {self._answer_within_s:g} s") from error
        except (anyio.IncompleteRead, anyio.EndOfStream) as error:
            with anyio.move_on_after(_LAST_WORDS_S):
                await self._child.process.wait()
            self._child.check_running()
            raise self._child.failed("closed its output") from error
        except (anyio.DelimiterNotFound, msgspec.DecodeError) as error:
            raise self._child.failed(f"said something else than an answer ({error})") from error


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` under this very interpreter."""
    return [sys.executable, "-m", module, *arguments]
