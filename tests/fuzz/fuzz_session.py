"""Coverage-guided fuzzing of the session code: bytes of a client in, the whole node behind it, every promise checked.

    python tests/fuzz/fuzz_session.py [--seconds 30] [--corpus DIR] [--seed N]
    python tests/fuzz/fuzz_session.py --replay FILE...

Starts from the committed corpus; what covers more is kept in DIR. Exits 0 with a summary. When an input breaks a
promise it exits 1, with the input in a file and as hex: `--replay` plays that file again, alone and uninstrumented;
`minimise.py` makes it small. Needs the extra `fuzz` (atheris); `--replay` does not.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.protos import common_pb2

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
INPUT_BYTES_MAX = 16384
INPUT_S_MAX = 120  # one input; beyond, it hangs
MEMORY_MIB_MAX = 2048
STEP_MS_MAX = 25.0  # 5 ms of the product, times five for the instrumentation
GRACE_S = 240  # for start, the corpus, and the end, beside --seconds
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the worker."""

    returncode: int
    coverage: str
    told: Mapping[str, Any]
    reproducers: tuple[Path, ...]
    corpus_new: int


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.replay:
        return _replay(options.replay)
    seed = options.seed or random.SystemRandom().randrange(1, 1 << 31)
    with tempfile.TemporaryDirectory(prefix="penstock-fuzz-") as scratch:
        found = options.corpus or Path(scratch) / "corpus"
        found.mkdir(parents=True, exist_ok=True)
        run = _run_worker(Path(scratch), found, seconds=options.seconds, seed=seed)
        _print_summary(run, seconds=options.seconds, seed=seed)
        if run.returncode == 0 and not run.reproducers:
            return 0
        for reproducer in run.reproducers:
            _print_reproducer(reproducer)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=30, help="how long to fuzz (30)")
    parser.add_argument("--corpus", type=Path, help="folder that keeps what covers more")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzer; 0: a new one, told")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="play these alone")
    return parser


def _run_worker(scratch: Path, found: Path, *, seconds: int, seed: int) -> Run:
    before = len(list(found.iterdir()))
    command = [
        sys.executable,
        str(HERE / "fuzz_worker.py"),
        str(scratch),
        str(STEP_MS_MAX),
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}",
        f"-artifact_prefix={scratch}/broken-",
        "-len_control=0",
        "-print_final_stats=1",
        str(found),
        str(CORPUS),
    ]
    coverage = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as worker:
        assert worker.stderr is not None
        for line in worker.stderr:
            sys.stderr.write(line)
            if (match := _COVERAGE.search(line)) is not None:
                coverage = f"{match[1]} edges, {match[2]} features"
        returncode = worker.wait(timeout=GRACE_S)
    told_path = scratch / "told.json"
    return Run(
        returncode,
        coverage,
        json.loads(told_path.read_text()) if told_path.exists() else {},
        tuple(sorted(scratch.glob("broken-*"))),
        len(list(found.iterdir())) - before,
    )


def _print_summary(run: Run, *, seconds: int, seed: int) -> None:
    told = run.told
    executions = told.get("executions", 0)
    print(
        f"executions      {executions} in {seconds} s ({executions / seconds:.0f} a second), seed {seed}"
    )
    print(f"coverage        {run.coverage}")
    print(f"new in corpus   {run.corpus_new}")
    print(f"slowest step    {told.get('slowest_ms', 0.0)} ms: {told.get('slowest_name') or 'none'}")
    print(f"replies         {_counts(told.get('replies', {}))}")
    refused = told.get("refusals", {})
    names = {
        name.removeprefix("ERROR_CODE_").lower(): refused.get(str(code), 0)
        for name, code in common_pb2.ErrorCode.items()
    }
    print(f"refusals        {_counts(names)}")
    print(f"outcome         {'clean' if run.returncode == 0 else f'BROKEN, exit {run.returncode}'}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "none"


def _print_reproducer(path: Path) -> None:
    kept = Path(tempfile.gettempdir()) / f"penstock-{path.name}"
    kept.write_bytes(path.read_bytes())
    print(f"reproducer      {kept}, {path.stat().st_size} bytes:")
    print(path.read_bytes().hex())


def _replay(paths: list[Path]) -> int:
    """Play each file alone, as the tests do; the first that breaks something raises."""
    from session_play import Stopwatch, play

    from penstock.runtime.watchdog import own_cpu_clock

    with own_cpu_clock() as clock:
        for path in paths:
            stopwatch = Stopwatch(clock)
            with stopwatch.watching():
                played = play(path.read_bytes(), stopwatch)
            print(f"{path.name}: slowest {played.slowest}; {_counts(played.replies)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
