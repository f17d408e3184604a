"""Metrics and logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from penstock.runtime.log import JsonFormatter, Log, TextFormatter, write_logs
from penstock.runtime.telemetry import LABEL_SETS_MAX, Telemetry


def test_a_counter_a_gauge_and_a_histogram_are_exported_under_our_prefix() -> None:
    telemetry = Telemetry()
    lookups = telemetry.counter("lookups", "Lookups.", labels=("outcome",))
    lookups.of(outcome="hit").add()
    lookups.of(outcome="hit").add(2)
    telemetry.gauge("resident_bytes", "Bytes.").set(7)
    telemetry.histogram("load_seconds", "Loads.", buckets=(0.1, 1)).observe(0.5)
    assert telemetry.value("penstock_lookups_total", outcome="hit") == 3
    assert telemetry.value("penstock_resident_bytes") == 7
    assert telemetry.value("penstock_load_seconds_bucket", le="0.1") == 0
    assert telemetry.value("penstock_load_seconds_bucket", le="1.0") == 1
    assert b"# HELP penstock_lookups_total Lookups." in telemetry.exposition()


def test_a_gauge_may_be_read_instead_of_told() -> None:
    telemetry, level = Telemetry(), [1]
    gauge = telemetry.gauge("queued", "Queued.", labels=("actor",))
    gauge.of(actor="l1").read_from(lambda: level[0])
    level[0] = 5
    assert telemetry.value("penstock_queued", actor="l1") == 5


def test_two_nodes_share_nothing() -> None:
    one, other = Telemetry(), Telemetry()
    one.counter("evictions", "Evictions.").add()
    other.counter("evictions", "Evictions.")
    assert other.value("penstock_evictions_total") == 0


def test_asking_again_gives_the_same_metric_and_never_another_kind() -> None:
    telemetry = Telemetry()
    telemetry.counter("loads", "Loads.").add()
    telemetry.counter("loads", "Loads.").add()
    assert telemetry.value("penstock_loads_total") == 2
    with pytest.raises(ValueError, match="another type"):
        telemetry.gauge("loads", "Loads.")
    with pytest.raises(ValueError, match="other labels"):
        telemetry.counter("loads", "Loads.", labels=("store",))


@pytest.mark.parametrize(
    "name", ["Loads", "penstock_loads", "loads_total", "loads-s", "_loads", ""]
)
def test_a_name_that_breaks_the_rules_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower_case"):
        Telemetry().counter(name, "Loads.")


def test_label_sets_are_bounded() -> None:
    telemetry = Telemetry()
    counter = telemetry.counter("asks", "Asks.", labels=("tenant",))
    for number in range(LABEL_SETS_MAX + 10):
        counter.of(tenant=str(number)).add()
    counter.of(tenant="0").add()
    assert telemetry.value("penstock_asks_total", tenant="other") == 10
    assert telemetry.value("penstock_asks_total", tenant="0") == 2
    with pytest.raises(ValueError, match="labels are"):
        counter.of(store="x")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger("penstock")
    before = root.level, root.propagate, list(root.handlers)
    yield io.StringIO()
    root.level, root.propagate, root.handlers = before
    root.setLevel(before[0])


def test_a_log_line_is_an_event_and_its_fields(stream: io.StringIO) -> None:
    write_logs(stream, level=logging.INFO, formatter=TextFormatter())
    log = Log("l1")
    log.debug("unseen")
    log.info("arena_ready", bytes=7, why="no huge pages", empty="")
    assert stream.getvalue().endswith(
        'INFO    penstock.l1: arena_ready bytes=7 why="no huge pages" empty=""\n'
    )


def test_json_lines_hold_the_same_and_a_traceback(stream: io.StringIO) -> None:
    write_logs(stream, level=logging.INFO, formatter=JsonFormatter())
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as error:
        Log("l1").crash("actor_died", error, actor="l1")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["event"]) == ("error", "penstock.l1", "actor_died")
    assert line["actor"] == "l1"
    assert "ZeroDivisionError: a bug" in line["traceback"]


def test_once_is_once_per_key(stream: io.StringIO) -> None:
    write_logs(stream, level=logging.INFO, formatter=logging.Formatter("%(message)s"))
    log = Log("l1")
    for _ in range(3):
        log.warning_once("slow_store", "disk", store="disk")
        log.warning_once("slow_store", "s3", store="s3")
        log.info_once("ready")
    assert stream.getvalue().splitlines() == [
        "slow_store store=disk",
        "slow_store store=s3",
        "ready",
    ]
