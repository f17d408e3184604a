"""Makes a reproducer small: the fewest steps that still break the same promise, written beside it and told in words.

    python tests/fuzz/minimise.py FILE

What it prints is what a scenario in `corpus_scenarios.py` is written from.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError
from google.protobuf.text_format import MessageToString
from session_client import Violation
from session_input import Input, Kind, Step
from session_play import Stopwatch, play

from penstock.protos import engine_pb2

SHOWN_CHARS_MAX = 400


def minimised(given: Input, breaks: Callable[[Input], bool]) -> Input:
    """`given` without every run of steps that is not needed, long runs first."""
    steps = list(given.steps)
    run = max(1, len(steps) // 2)
    while run:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + run :]
            if breaks(given.with_steps(fewer)):
                steps = fewer
            else:
                at += run
        run //= 2
    return given.with_steps(steps)


def violation(given: Input) -> str:
    """The first words of what it breaks; empty when it breaks nothing."""
    try:
        play(given.encode(), Stopwatch(time.perf_counter))
    except Violation as broken:
        return str(broken)[:20]
    return ""


def described(step: Step) -> str:
    """A step in one line."""
    if step.kind is Kind.WAIT:
        return f"{step.wait_s} s pass"
    if step.kind not in {Kind.MESSAGE, Kind.GROW}:
        return f"{step.stream} {step.kind.name}"
    body = step.payload[1:] if step.kind is Kind.GROW else step.payload
    try:
        request = engine_pb2.SessionRequest.FromString(body)
    except DecodeError:
        return f"{step.stream} {step.kind.name} {body.hex()}"[:SHOWN_CHARS_MAX]
    text = MessageToString(request, as_one_line=True)
    return f"{step.stream} {step.kind.name} {text}"[:SHOWN_CHARS_MAX]


def main(path: Path) -> int:
    given = Input.decode(path.read_bytes())
    wanted = violation(given)
    if not wanted:
        print("it breaks nothing")
        return 1
    small = minimised(given, lambda fewer: violation(fewer) == wanted)
    path.with_name(f"{path.name}.min").write_bytes(small.encode())
    print(f"{wanted}...: order {small.order}, limits {small.profile.name}")
    for step in small.steps:
        print(described(step))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
