"""What `penstock status` prints of the arena: the cache, and beside it what other nodes push."""

from __future__ import annotations

import pytest

from penstock.actors.cli import status
from penstock.protos import engine_pb2
from penstock.runtime.units import MIB


@pytest.mark.parametrize("pd_mib", [0, 4])
def test_the_part_for_pushes_is_told_if_there_is_one(
    pd_mib: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stat = engine_pb2.StatReply(
        arena_bytes=8 * MIB,
        free_bytes=8 * MIB,
        pd_bytes=pd_mib * MIB,
        pd_free_bytes=pd_mib * MIB * 3 // 4,
        pd_loaded_bytes=pd_mib * MIB // 4,
    )
    status._print(engine_pb2.HealthReply(state=engine_pb2.HEALTH_STATE_SERVING), stat)
    told = capsys.readouterr().out
    assert "arena     8MiB" in told
    assert ("pushed    4MiB" in told) == bool(pd_mib)
    assert ("1,048,576 bytes  25.0 %" in told) == bool(pd_mib)
