"""Every input of the corpus again, without the fuzzer: one node each, every promise of the contract checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_corpus import CORPUS, FOUND, write_scenarios
from minimise import minimised
from session_input import Input, Kind, Named, Profile, Step, resolve_symbols, symbol
from session_play import Played, Stopwatch, play

from penstock.runtime.watchdog import STEP_MS_MAX, own_cpu_clock

LOOKS_MAX = 3  # a step is slow if it is slow every time: clocks of busy machines jump
FILES = sorted(CORPUS.iterdir())


@pytest.mark.loop_step_ms(2000)  # the client's own steps; the node's are judged below
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_input_of_the_corpus_breaks_nothing(file: Path) -> None:
    """Goal: garbage, mutated messages, dying and stalling clients cost nobody but the client (B12, D2, D3).

    Method: play the file against a node on virtual time; `play` raises when a request is unanswered, a stream or an
    actor died, a lease or a byte is left, or a bound was passed.
    """
    with own_cpu_clock() as clock:
        looks = [_played(file, Stopwatch(clock))]
        while looks[-1].slowest.took_ms > STEP_MS_MAX and len(looks) < LOOKS_MAX:
            looks.append(_played(file, Stopwatch(clock)))
    assert looks[0].replies["heartbeat"] >= 1
    assert looks[-1].slowest.took_ms <= STEP_MS_MAX, [str(look.slowest) for look in looks]


def _played(file: Path, stopwatch: Stopwatch) -> Played:
    with stopwatch.watching():
        return play(file.read_bytes(), stopwatch)


def test_the_same_input_does_the_same_again() -> None:
    """Goal: a reproducer reproduces. Method: play one input twice; every reply is the same."""
    data = (CORPUS / "progress").read_bytes()
    with own_cpu_clock() as clock:
        first, again = (play(data, Stopwatch(clock)) for _ in range(2))
    assert first.replies == again.replies
    assert first.refusals == again.refusals
    assert first.replies["progress"] > 0


def test_the_committed_corpus_is_what_the_script_writes(tmp_path: Path) -> None:
    write_scenarios(tmp_path)
    named = [file for file in FILES if not file.name.startswith(FOUND)]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in named
    }


def test_any_bytes_are_an_input() -> None:
    """Goal: no mutation is wasted on the format. Method: what is decoded is encoded and decoded to the same."""
    for data in (b"", b"\x01", b"\xff" * 40, bytes(range(256)) * 3):
        given = Input.decode(data)
        assert Input.decode(given.encode()) == given


def test_an_input_survives_its_encoding() -> None:
    steps = (Step(Kind.MESSAGE, 3, b"abc"), Step(Kind.WAIT, 0, b"\x02\x01"), Step(Kind.GROW, 1))
    given = Input(steps, order=7, profile=Profile.SHIPPED)
    assert Input.decode(given.encode()) == given
    assert steps[1].wait_s == 2.58


def test_a_reproducer_is_reduced_to_the_steps_that_matter() -> None:
    """Method: two of many steps are what "breaks"; exactly they are left, in their order."""
    steps = tuple(Step(Kind.WAIT, 0, bytes([number, 0])) for number in range(13))
    needed = {steps[2], steps[11]}
    small = minimised(Input(steps, order=3), lambda given: needed <= set(given.steps))
    assert small == Input((steps[2], steps[11]), order=3)


def test_symbols_become_ids_of_the_same_length() -> None:
    known = {Named.TICKET: b"T" * 16, Named.SECRET: b"S" * 16 + b"s" * 16}
    raw = b"<" + symbol(Named.TICKET) + b"|" + symbol(Named.SECRET, 3) + b"|" + symbol(Named.EPOCH)
    resolved = resolve_symbols(raw, lambda named, nth: known.get(named))
    assert resolved == b"<" + known[Named.TICKET] + b"|" + known[Named.SECRET] + b"|" + symbol(
        Named.EPOCH
    )
