"""Trace readers: what they read, and that a line that cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data.make_traces import files
from support.traces import (
    AGENTIC,
    CONVERSATION,
    HOW_TO_GET,
    MADE,
    MADE_AGENTIC,
    count_hits,
)

from penstock.actors.cli.replay_drive import TraceSize, block_keys, measure
from penstock.actors.cli.traces import TraceFormat, TraceMalformed, TraceRequest, read_trace

AUTO = TraceFormat.AUTO


def line(*ids: object, timestamp: object = 0) -> str:
    return json.dumps({"timestamp": timestamp, "input_length": 9, "hash_ids": list(ids)})


def test_the_committed_traces_are_what_the_script_makes() -> None:
    for name, content in files().items():
        assert (MADE.parent / name).read_text() == content, name


def test_a_mooncake_trace_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{line(0, 1)}\n\n{line(timestamp=1500.5)}\n{line(2**63, timestamp=2000)}")
    assert list(read_trace(path, AUTO)) == [
        TraceRequest(0.0, "", (0, 1)),
        TraceRequest(1.5005, "", ()),
        TraceRequest(2.0, "", (2**63,)),
    ]


def test_an_agentic_folder_is_read_file_by_file_with_its_own_ids(tmp_path: Path) -> None:
    for name, ids in (("b", [1, 2]), ("a", [1])):
        inside = {"t": 2.0, "type": "n", "hash_ids": [9]}
        requests = [
            {"t": 1.0, "type": "s", "hash_ids": ids},
            {"t": 2.0, "type": "subagent", "requests": [inside]},
            {"t": 3.0, "type": "subagent"},
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({"id": name, "requests": requests}))
    (tmp_path / "LICENSE").write_text("not a trace")
    assert list(read_trace(tmp_path, AUTO)) == [
        TraceRequest(1.0, "a.json", (1,)),
        TraceRequest(2.0, "a.json", (9,)),
        TraceRequest(1.0, "b.json", (1, 2)),
        TraceRequest(2.0, "b.json", (9,)),
    ]


def test_a_global_scope_is_one_for_all_files(tmp_path: Path) -> None:
    for name in "ab":
        content = {"hash_id_scope": "global", "requests": [{"t": 0, "hash_ids": [1]}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    first, second = read_trace(tmp_path, AUTO)
    assert block_keys(first) == block_keys(second)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", line(1), ""),
        ("a.json", '{"requests": [{"t": 0, "hash_ids": [1]}]}', "a.json"),
        ("trace", line(1) + "\n" + line(2), ""),
        ("trace", '{"requests": [\n{"t": 0, "hash_ids": [1]}]}', "trace"),
    ],
)
def test_the_format_is_found_by_name_or_by_the_first_line(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert next(read_trace(path, AUTO)).scope == expected


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"timestamp": 0}', "missing required field `hash_ids`"),
        ('{"hash_ids": [1]}', "missing required field `timestamp`"),
        (line("1"), r"Expected `int`, got `str` - at `\$.hash_ids\[0\]`"),
        (line(1, -1), r"Expected `int` >= 0 - at `\$.hash_ids\[1\]`"),
        (line(1, timestamp=-1), "Expected `float` >= 0"),
        (line(1, timestamp="now"), "Expected `float`, got `str`"),
        ("\xff\xfe", "malformed"),
        (line(1) + line(2), "trailing characters"),
    ],
)
def test_a_malformed_mooncake_line_is_named_after_the_good_ones(
    tmp_path: Path, bad: str, says: str
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{line(1)}\n{line(2)}\n{bad}\n{line(3)}\n", encoding="latin-1")
    read: list[tuple[int, ...]] = []
    with pytest.raises(TraceMalformed, match=says) as refused:
        read.extend(request.blocks for request in read_trace(path, AUTO))
    assert read == [(1,), (2,)]
    assert refused.value.line == 3
    assert str(refused.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("content", "at_line", "says"),
    [
        ('{"requests": [\n{"t": 0,, "hash_ids": []}]}', 2, "property name"),
        ("", 1, "Expecting value"),
        ("[" * 100_000, 1, "recursion"),
        ('{"requests": 1}', 1, r"Expected `array`, got `int` - at `\$.requests`"),
        ('{"requests": [{"t": 0, "type": "n"}]}', 1, r"`hash_ids` - at `\$.requests\[0\]`"),
        (
            '{"requests": [{"t": 0, "type": "subagent", "requests": [{"t": 0}]}]}',
            1,
            r"at `\$.requests\[0\].requests\[0\]`",
        ),
        (
            '{"requests":[' + '{"t":0,"requests":[' * 10 + "]}" * 10 + "]}",
            1,
            "nested deeper than 8",
        ),
    ],
)
def test_a_malformed_agentic_file_is_named(
    tmp_path: Path, content: str, at_line: int, says: str
) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(TraceMalformed, match=says) as refused:
        list(read_trace(tmp_path, AUTO))
    assert (refused.value.path, refused.value.line) == (tmp_path / "bad.json", at_line)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceMalformed, match="No such file"):
        list(read_trace(tmp_path / "no.jsonl", AUTO))
    with pytest.raises(TraceMalformed, match=r"holds no \.json files"):
        list(read_trace(tmp_path, AUTO))
    with pytest.raises(TraceMalformed, match="Is a directory"):
        list(read_trace(tmp_path, TraceFormat.MOONCAKE))


def test_a_trace_is_measured_before_it_is_run(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{line(1, 2, 3)}\n{line(1, 4)}\n{line()}\n")
    assert measure(read_trace(path, AUTO)) == TraceSize(3, 3, 4)


def test_equal_ids_are_equal_keys_within_their_scope_only() -> None:
    keys = {
        (scope, ids): block_keys(TraceRequest(0, scope, ids))
        for scope in ("", "a", "b")
        for ids in ((1, 2), (2, 1), (12,))
    }
    assert keys["a", (1, 2)] == keys["a", (2, 1)][32:] + keys["a", (2, 1)][:32]
    singles = {packed[at : at + 32] for packed in keys.values() for at in range(0, len(packed), 32)}
    assert len(singles) == 3 * 3


def test_the_made_trace_loses_hits_in_a_small_cache() -> None:
    """What the replay tests compare with is worth comparing: three capacities, three counts."""
    requests = [(r.scope, r.blocks) for r in read_trace(MADE, AUTO)]
    hits = [count_hits(requests, capacity)[1] for capacity in (60, 400, None)]
    assert 0 < hits[0] < hits[1] < hits[2]
    agentic = [(r.scope, r.blocks) for r in read_trace(MADE_AGENTIC, AUTO)]
    assert len({scope for scope, _ in agentic}) == 2


@pytest.mark.skipif(not CONVERSATION.exists(), reason=HOW_TO_GET)
def test_the_published_trace_has_its_known_hit_rates() -> None:
    requests = [(r.scope, r.blocks) for r in read_trace(CONVERSATION, AUTO)]
    rates = []
    for capacity in (None, 10_000, 50_000):
        blocks, hits = count_hits(requests, capacity)
        rates.append(round(100 * hits / blocks, 1))
    assert rates == [36.6, 21.2, 35.5]


@pytest.mark.skipif(not AGENTIC.exists(), reason=HOW_TO_GET)
def test_published_agentic_traces_are_read() -> None:
    requests = list(read_trace(AGENTIC, AUTO))
    assert len({request.scope for request in requests}) == len(list(AGENTIC.glob("*.json")))
    assert all(len(set(request.blocks)) == len(request.blocks) for request in requests)
