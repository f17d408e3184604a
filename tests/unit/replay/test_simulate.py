"""`penstock simulate`: the same policies as a node's, over packed traces."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
from support.traces import MADE, MADE_AGENTIC, count_hits

from penstock.actors.cli.main import main
from penstock.actors.cli.simulate import default_capacities, simulate
from penstock.actors.cli.simulate_trace import MIXED, load, mixed, pack
from penstock.actors.cli.traces import TraceFormat, TraceRequest, read_trace
from penstock.actors.config_words import PolicyName


def test_a_simulated_lru_hits_what_an_independent_count_hits() -> None:
    (trace,) = load(MADE, TraceFormat.AUTO, None)
    requests = [(one.scope, one.blocks) for one in read_trace(MADE, TraceFormat.AUTO)]
    for capacity in (60, 400, trace.blocks_different):
        (row,) = simulate(trace, capacity, [PolicyName.LRU])
        blocks, hits = count_hits(requests, capacity)
        assert (row.references, row.hit_rate) == (blocks, hits / blocks)
        assert row.hit_rate <= row.optimum
    assert row.hit_rate == row.optimum  # with room for all, every policy is as good as any can be


def test_a_folder_is_each_of_its_files_and_all_of_them_mixed() -> None:
    traces = load(MADE_AGENTIC, TraceFormat.AUTO, None)
    *alone, together = traces
    assert [one.name for one in traces] == ["agent_1", "agent_2", MIXED]
    assert together.blocks == sum(one.blocks for one in alone)
    assert together.blocks_different == sum(one.blocks_different for one in alone)
    assert len(load(MADE_AGENTIC, TraceFormat.AUTO, 1)[0].lengths) == 4
    (one,) = load(MADE_AGENTIC / "agent_1.json", TraceFormat.AUTO, None)
    assert one == alone[0]


def test_mixing_keeps_the_order_of_every_file() -> None:
    """What a file has out of order stays behind what was before it there."""

    def requests(scope: str, times: list[float]) -> list[TraceRequest]:
        return [TraceRequest(at_s, scope, (number,)) for number, at_s in enumerate(times)]

    files = [requests("a", [0.0, 5.0, 2.0, 7.0]), requests("b", [1.0, 5.0, 6.0])]
    assert [f"{one.scope}{one.blocks[0]}" for one in mixed(files)] == [
        *("a0", "b0", "a1", "a2", "b1", "b2", "a3"),
    ]


def test_equal_ids_of_two_scopes_are_different_blocks() -> None:
    trace = pack("two", [TraceRequest(0, "a", (1, 2)), TraceRequest(0, "b", (1,))])
    assert trace.blocks_different == 3
    assert len({trace.keys[at : at + 32] for at in range(0, 96, 32)}) == 3


def test_the_command_prints_a_table_and_writes_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    numbers, picture = tmp_path / "numbers.json", tmp_path / "picture.png"
    words = ["simulate", MADE, MADE_AGENTIC, "--policies", "lru,prospect", "--capacities", "50,200"]
    assert main([*map(str, words), "--json", str(numbers), "--plot", str(picture)]) == 0
    rows = json.loads(numbers.read_text())["rows"]
    assert len(rows) == 4 * 2 * 2  # traces, capacities, policies
    assert {row["policy"] for row in rows} == {"lru", "prospect"}
    for row in rows:
        assert 0 <= row["hit_rate"] <= row["optimum"] <= 1
        assert row["references_per_s"] > 0
    shown = capsys.readouterr().out
    assert "conversations, % hit" in shown
    assert f"{100 * rows[0]['hit_rate']:.2f}" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policies", "lru,clock"], "'clock' is not a valid PolicyName; there are lru, s3fifo"),
        (["--capacities", "10,0"], "0 is not 1 to"),
        (["--requests-max", "0"], "0 is not 1 to"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["simulate", str(MADE), *words])
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["simulate", "replay"])
def test_numbers_that_could_not_be_written_are_not_made(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """E4. Seen to fail: the whole run was made, and lost."""
    file = tmp_path / "absent" / "numbers.json"
    assert main([command, str(MADE), "--json", str(file)]) == 2
    said = capsys.readouterr()
    assert "there is no directory" in said.err
    assert not said.out


def test_default_capacities_halve_down_from_half_of_all_blocks() -> None:
    trace = pack("few", [TraceRequest(0, "", tuple(range(100)))])
    assert default_capacities(trace) == (1, 3, 6, 12, 25, 50)
    assert default_capacities(pack("none", [])) == (1,)
    assert not list(chain(*(simulate(pack("none", []), 1, []),)))
