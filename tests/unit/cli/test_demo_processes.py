"""The demo's children: each way to fail ends in one error that says which child, what, and its last
words."""

import sys
from pathlib import Path

import anyio
import pytest

from penstock.actors.cli.demo_processes import Child, ProcessFailed, Speech, Worker, running
from penstock.actors.engine.reference_messages import Generate, PrefixFrom, Ready

READY = '{"type":"Ready","weights_digest":"w","chunk_tokens":4,"kv_token_bytes":8}'
REFUSING = f"""
import sys
print('{READY}', flush=True)
input()
print('why', file=sys.stderr)
print('{{"type":"Refused","problem":"too long"}}', flush=True)
input()
"""
REQUEST = Generate("text", 1, PrefixFrom.NOWHERE)


def run_worker(tmp_path: Path, source: str, *, within_s: float = 10) -> object:
    """Run `source` as a worker: wait for its Ready, then ask it once."""

    async def main() -> object:
        async with running(
            "worker 1",
            [sys.executable, "-c", source],
            log=tmp_path / "log",
            speech=Speech.BY_PIPES,
            stop_within_s=5,
        ) as child:
            worker = Worker(child, answer_within_s=within_s)
            assert await worker.ready() == Ready("w", 4, 8)
            return await worker.generate(REQUEST)

    return anyio.run(main)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise SystemExit('no model')", "ended with exit status 1"),
        ("import sys; print('oops'); sys.stdin.read()", "something else than an answer"),
        (f"print('{READY}')", "ended with exit status 0|does not listen any more"),
        (
            f"print('{READY}', flush=True); input(); print('{READY}', flush=True); input()",
            "started twice",
        ),
        (
            REFUSING,
            r"refused: too long. Its last words:\n    why",
        ),
        ("print('x' * (2 << 20), flush=True); input()", "something else than an answer"),
    ],
)
def test_a_worker_that_fails_is_reported(tmp_path: Path, source: str, words: str) -> None:
    """Goal: no way for a worker to fail leaves the demo waiting or speechless."""
    with pytest.raises(ProcessFailed, match=words) as failed:
        run_worker(tmp_path, source)
    assert str(failed.value).startswith("worker 1 ")


def test_a_silent_worker_costs_its_deadline_and_is_stopped(tmp_path: Path) -> None:
    """Goal: no wait without an end. Method: a worker that neither speaks nor obeys SIGTERM."""
    source = "import signal, sys; signal.signal(15, signal.SIG_IGN); sys.stdin.read()"

    async def main() -> Child:
        async with running(
            "worker 1",
            [sys.executable, "-c", source],
            log=tmp_path / "log",
            speech=Speech.BY_PIPES,
            stop_within_s=0.2,
        ) as child:
            with pytest.raises(ProcessFailed, match=r"did not answer in 0\.5 s"):
                await Worker(child, answer_within_s=0.5).ready()
            return child

    assert anyio.run(main).process.returncode is not None


def test_a_child_that_ended_is_noticed_before_it_is_asked(tmp_path: Path) -> None:
    """Goal: the node's death is named as such, with what it said."""

    async def main() -> None:
        command = [sys.executable, "-c", "print('no memory'); raise SystemExit(3)"]
        async with running(
            "the node", command, log=tmp_path / "log", speech=Speech.TO_LOG, stop_within_s=5
        ) as child:
            await child.process.wait()
            child.check_running()

    with pytest.raises(ProcessFailed, match=r"the node ended with exit status 3.*\n    no memory"):
        anyio.run(main)
