"""Where two nodes are put, and that nothing is left where that fails half way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from penstock.actors.cli import demo_network
from penstock.actors.cli.demo_network import DECODE, PREFILL, Network, NoNamespaces, places

pytestmark = pytest.mark.anyio

FAKE_IP = """#!/bin/sh
printf '%s\\n' "$*" >> {log}
case "$*" in *"{fails_at}"*) echo "no such thing here" >&2; exit 2;; esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root, with an `ip` that makes nothing and cannot make a veth pair. Gives what it was asked."""
    log, program = tmp_path / "calls", tmp_path / "ip"
    program.write_text(FAKE_IP.format(log=log, fails_at="veth"))
    program.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: str(program) if name == "ip" else None)
    return log


def asked_of(log: Path) -> list[str]:
    return log.read_text().splitlines()


async def test_ports_are_three_of_loopback() -> None:
    async with places(Network.PORTS) as found:
        every = {*found.addresses.values(), found.relay}
        assert len(every) == 3
        assert all(one.startswith("127.0.0.1:") for one in every)
        assert not found.is_beyond_loopback
        assert not await found.slow_down()


async def test_without_root_there_are_ports_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    async with places(Network.AUTO) as found:
        assert "two ports" in found.title
        assert "take root" in found.title
    with pytest.raises(NoNamespaces, match="take root"):
        async with places(Network.NAMESPACES):
            pytest.fail("they cannot be had")


async def test_what_was_made_before_a_failure_is_removed(calls: Path) -> None:
    """And nothing else: one that could not be made is somebody else's."""
    async with places(Network.AUTO) as found:
        assert "no such thing here" in found.title
        assert found.entered == {PREFILL: (), DECODE: ()}
    said = asked_of(calls)
    spaces = [f"penstock-{os.getpid()}-{name}" for name in (PREFILL, DECODE)]
    assert said[:2] == [f"netns add {space}" for space in spaces]
    assert said[-2:] == [f"netns delete {space}" for space in reversed(spaces)]


async def test_a_namespace_that_is_there_is_left_alone(calls: Path) -> None:
    program = calls.with_name("ip")
    program.write_text(FAKE_IP.format(log=calls, fails_at=f"add penstock-{os.getpid()}-{DECODE}"))
    with pytest.raises(NoNamespaces, match="no such thing here"):
        async with places(Network.NAMESPACES):
            pytest.fail("they cannot be had")
    deleted = [line for line in asked_of(calls) if "delete" in line]
    assert deleted == [f"netns delete penstock-{os.getpid()}-{PREFILL}"]


async def test_a_wire_that_delays_is_asked_for_one_in_twenty(calls: Path) -> None:
    """All are delayed but for those that go first: that is how netem counts."""
    calls.with_name("ip").write_text(FAKE_IP.format(log=calls, fails_at="never"))
    async with places(Network.NAMESPACES) as found:
        assert found.is_beyond_loopback
        assert not await found.slow_down()  # there is no tc
        demo_network.shutil.which = lambda name: f"/sbin/{name}"  # restored by the fixture
        assert await found.slow_down()
    asked = [line for line in asked_of(calls) if "netem" in line]
    assert len(asked) == 1
    assert asked[0].endswith("/sbin/tc qdisc add dev pd0 root netem delay 20ms reorder 95%")
