"""What the demo runs on: a node and two engine workers of different layouts."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import msgspec

from penstock.actors.cli.demo_documents import Document, prompt
from penstock.actors.cli.demo_plan import Ask, Asked, home
from penstock.actors.cli.demo_processes import (
    Child,
    ProcessFailed,
    Speech,
    Worker,
    module_command,
    running,
)
from penstock.actors.engine.reference_config import ModelShape
from penstock.actors.engine.reference_messages import Generate, Ready, WaitAttached, WaitStored

CHUNK_TOKENS = 256  # the node's default
KV_ELEMENT_BYTES = 2  # bfloat16
LAYOUTS = (("NL_X_TWO_NB_BS_NH_HS", 16), ("NL_X_NB_TWO_NH_BS_HS", 32))
"""Preset and block size in tokens of each worker: what one writes, the other reads into another
order."""

STORE_NAME = "disk"

_STOP_WITHIN_S = 5.0
_SAVED_WITHIN_S = 60.0  # one document
_ATTACHED_WITHIN_S = 60.0  # after the node was killed
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the command line said."""

    shape: ModelShape
    seed: int
    documents: int
    document_tokens: int  # where each document is cut
    questions: int
    rounds: int
    answer_tokens: int
    threads: int  # of each worker; one works at a time
    answer_within_s: float
    record_keys: Path | None = None  # a directory for the workers' key records

    @property
    def prompt_tokens_max(self) -> int:
        """A document and the longest question, with room to spare."""
        return self.document_tokens + CHUNK_TOKENS

    @property
    def kv_tokens(self) -> int:
        """KV cache of one worker, in tokens: every document and question kept, and one prompt
        running."""
        chunks = -(-self.prompt_tokens_max // CHUNK_TOKENS)
        kept = self.documents * (
            chunks + self.questions
        )  # questions share all but their last chunk
        return (kept + chunks + 1) * CHUNK_TOKENS + self.answer_tokens

    @property
    def l1_bytes(self) -> int:
        """Memory of the node: everything the demo ever stores, twice, so that nothing has to go."""
        chunks = self.documents * (-(-self.prompt_tokens_max // CHUNK_TOKENS) + self.questions)
        token_bytes = self.shape.kv_bytes_per_token(element_bytes=KV_ELEMENT_BYTES)
        return -(-2 * chunks * CHUNK_TOKENS * token_bytes // (64 * _MIB)) * 64 * _MIB

    @property
    def store_bytes(self) -> int:
        """On disk: as much, with headers to spare."""
        return 2 * self.l1_bytes


class NodeProcess:
    """A node over a store on disk; entered, it runs."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._command, self._directory = command, directory
        self._life = AsyncExitStack()
        self._lives = 0
        self.child: Child  # of the present life

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._life.aclose()

    async def crash(self) -> None:
        """Kill it, and start it again over what lies on disk."""
        self.child.check_running()
        await self.child.kill()
        await self._life.aclose()
        await self._start()

    async def _start(self) -> None:
        self._lives += 1
        self.child = await self._life.enter_async_context(
            running(
                "the node",
                self._command,
                log=self._directory / f"node-{self._lives}.log",
                speech=Speech.TO_LOG,
                stop_within_s=_STOP_WITHIN_S,
            )
        )


class Cluster:
    """A node and its workers, attached and ready."""

    def __init__(self, node: NodeProcess, workers: Sequence[Worker], ready: Ready) -> None:
        self._node, self._workers, self.ready = node, workers, ready

    async def perform(self, ask: Ask, document: Document, *, answer_tokens: int) -> Asked:
        """Put one question. Raises ProcessFailed when the node or the worker cannot answer."""
        self._node.child.check_running()
        request = Generate(prompt(document, ask.question), answer_tokens, ask.prefix_from)
        return Asked(ask, await self._workers[ask.worker].generate(request))

    async def wait_stored(self, documents: Sequence[Document]) -> None:
        """Until all that was computed of them lies on disk. Raises ProcessFailed."""
        for number, document in enumerate(documents):
            request = WaitStored(prompt(document, 0), _SAVED_WITHIN_S)
            await self._workers[home(number)].wait(request)

    async def crash_node(self) -> None:
        """Kill the node and start it again; returns when the workers are attached to the new one.

        Raises ProcessFailed.
        """
        await self._node.crash()
        for worker in self._workers:
            await worker.wait(WaitAttached(_ATTACHED_WITHIN_S))
        self._node.child.check_running()


@asynccontextmanager
async def cluster(options: DemoOptions, directory: Path, store: Path) -> AsyncIterator[Cluster]:
    """Start node and workers at once (the workers wait for the node) and stop them in reverse
    order.

    `directory` takes their socket and logs, `store` the node's objects. Raises ProcessFailed when
    one of them does not come up.
    """
    address = f"unix://{directory / 'penstock.sock'}"  # where a node in `directory` listens
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(
            NodeProcess(_node_command(options, directory, store), directory)
        )
        workers = [
            await stack.enter_async_context(_worker(options, address, directory, index))
            for index in range(len(LAYOUTS))
        ]
        ready = await all_ready([node.child], workers)
        yield Cluster(node, workers, ready)


@asynccontextmanager
async def _worker(
    options: DemoOptions, address: str, directory: Path, index: int
) -> AsyncIterator[Worker]:
    async with running(
        f"worker {index + 1}",
        worker_command(options, address, index),
        log=directory / f"worker-{index + 1}.log",
        speech=Speech.BY_PIPES,
        stop_within_s=_STOP_WITHIN_S,
    ) as child:
        yield Worker(child, answer_within_s=options.answer_within_s)


async def all_ready(nodes: Sequence[Child], workers: Sequence[Worker]) -> Ready:
    """What all of the workers say. Raises ProcessFailed when a node or a worker does not come up."""
    answers: list[Ready] = []
    failure: ProcessFailed | None = None
    async with anyio.create_task_group() as tasks:
        for node in nodes:
            tasks.start_soon(_cancel_at_end, node, tasks.cancel_scope)
        try:
            answers += [await worker.ready() for worker in workers]  # they start side by side
        except ProcessFailed as failed:
            failure = failed
        tasks.cancel_scope.cancel()
    for node in nodes:  # without it the workers fail too: name the cause first
        node.check_running()
    if failure is not None:
        raise failure
    if len(set(answers)) != 1:
        raise ProcessFailed(f"the workers disagree about the model they run: {answers}")
    return answers[0]


async def _cancel_at_end(child: Child, scope: anyio.CancelScope) -> None:
    await child.process.wait()
    scope.cancel()


def _node_command(options: DemoOptions, directory: Path, store: Path) -> list[str]:
    disk = {
        "name": STORE_NAME,
        "type": "file",
        "paths": [str(store.absolute())],
        "capacity": f"{options.store_bytes // _MIB}MiB",
    }
    config = directory / "node.yaml"
    config.write_bytes(msgspec.json.encode({"stores": [disk]}))  # JSON is YAML
    return module_command(
        "penstock.actors.cli.main",
        "serve",
        f"--config={config}",
        f"--set=state_dir={directory}",
        f"--set=l1.bytes={options.l1_bytes // _MIB}MiB",
    )


def worker_command(options: DemoOptions, address: str, index: int) -> list[str]:
    """The command line of a worker of one of `LAYOUTS`."""
    preset, block_tokens = LAYOUTS[index]
    recorded = options.record_keys and options.record_keys.absolute() / f"worker-{index + 1}.json"
    return module_command(
        "penstock.actors.engine.reference_worker",
        f"--address={address}",
        f"--model-size={options.shape.name}",
        f"--seed={options.seed}",
        f"--layout={preset}",
        f"--block-tokens={block_tokens}",
        f"--kv-tokens={options.kv_tokens}",
        f"--positions-max={options.prompt_tokens_max + options.answer_tokens}",
        f"--threads={options.threads}",
        *([f"--record-keys={recorded}"] if recorded else []),
    )
