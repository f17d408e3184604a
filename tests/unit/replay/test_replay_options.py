"""`penstock replay` and its options: what may be chosen, and what is when nothing is said."""

from __future__ import annotations

import argparse

import pytest

from penstock.actors.cli import replay, simulate
from penstock.actors.cli.main import main
from penstock.actors.config import NodeConfig
from penstock.actors.config_words import PolicyName


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    replay.add_parser(parser.add_subparsers())
    return parser.parse_args(["replay", "trace.jsonl", *words])


def test_the_policy_is_that_of_a_node_unless_it_is_named() -> None:
    """Seen to fail: it was lru, and the numbers were not those of the node one would run."""
    assert parsed().policy is NodeConfig().l1.policy
    assert parsed("--policy", "sieve").policy is PolicyName.SIEVE


@pytest.mark.parametrize("option", ["--policy", "--format", "--speed"])
def test_what_cannot_be_chosen_is_refused_with_what_can(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail: it was called an invalid value, and nothing else."""
    with pytest.raises(SystemExit):
        parsed(option, "lifo")
    told = capsys.readouterr().err
    assert f"argument {option}: 'lifo' is not one of " in told
    kind = type(getattr(parsed(), option.removeprefix("--")))
    assert all(member.value in told.rpartition("one of ")[2] for member in kind)


@pytest.mark.parametrize("command", [replay, simulate])
def test_its_help_tells_how_a_trace_is_written(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "replay" if command is replay else "simulate"
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = capsys.readouterr().out
    assert '{"timestamp": 27482, "hash_ids": [46, 47, 2353]}' in told
    assert '{"requests": [{"t": 1.5, "hash_ids": [1, 2, 3]}]}' in told
