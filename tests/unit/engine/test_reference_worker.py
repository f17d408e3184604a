"""The worker process without a node: its lines, its refusals, its end."""

import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import msgspec
import pytest

from penstock.actors.engine.reference_messages import (
    Answer,
    Generate,
    Generated,
    PrefixFrom,
    Ready,
    Refused,
    WaitStored,
)


class Lines:
    """A worker as one talks to it by hand."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin, self._stdout = stdin, stdout

    def say(self, line: bytes) -> None:
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    def hear(self) -> Answer:
        return msgspec.json.decode(self._stdout.readline(), type=Answer)

    def generate(self, text: str, prefix_from: PrefixFrom) -> Answer:
        self.say(msgspec.json.encode(Generate(text, 4, prefix_from)))
        return self.hear()


@pytest.fixture
def worker() -> Iterator[Lines]:
    """A worker of the smallest model, alone; it must end by itself when its input does."""
    command = [sys.executable, "-m", "penstock.actors.engine.reference_worker"]
    command += ["--model-size=1m", "--threads=1", "--positions-max=700", "--kv-tokens=2048"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Lines(process.stdin, process.stdout)
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def test_a_worker_answers_refuses_and_goes_on(worker: Lines) -> None:
    """Goal: garbage and prompts that are too long cost one refusal each, and nothing of what
    follows."""
    ready = worker.hear()
    assert isinstance(ready, Ready)
    assert (ready.chunk_tokens, ready.kv_token_bytes) == (256, 4 * 2 * 2 * 32 * 2)
    text = "A document. " * 30 + "A question?"
    cold = worker.generate(text, PrefixFrom.NOWHERE)
    worker.say(b'{"type":"Generate","text":1}')
    refused = worker.hear()
    assert isinstance(refused, Refused)
    assert "not a request" in refused.problem
    refused = worker.generate("x" * 700, PrefixFrom.NOWHERE)
    assert isinstance(refused, Refused)
    assert "shorten the prompt" in refused.problem
    worker.say(msgspec.json.encode(WaitStored(text, 1.0)))
    refused = worker.hear()
    assert isinstance(refused, Refused)
    assert "it has no node" in refused.problem
    # Without a node PENSTOCK finds nothing; the worker's own cache has kept the first chunk.
    for prefix_from, hit_tokens in ((PrefixFrom.PENSTOCK, 0), (PrefixFrom.OWN_CACHE, 256)):
        again = worker.generate(text, prefix_from)
        assert isinstance(cold, Generated)
        assert isinstance(again, Generated)
        assert again.generation.hit_tokens == hit_tokens
        assert again.generation.tokens == cold.generation.tokens
        assert again.generation.logits_digest == cold.generation.logits_digest
