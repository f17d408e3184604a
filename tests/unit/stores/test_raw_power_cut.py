"""C4 for the raw block store: the power is cut at every boundary between writes, and what was promised is there."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio
import pytest
from support.power_cut import Leaving, RecordingDisk
from support.raw_cuts import RawCuts, WrongAfterCut

from penstock.actors.core.slot_format import decode_put, key_of
from penstock.actors.core.slot_log import BLOCKS_MIN
from penstock.actors.stores import raw_commit
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.native_io import Moved
from penstock.actors.stores.raw_volume import Volume

CUTS_MIN = 600  # by each of the seeds


def lives(cuts: RawCuts, cuts_min: int, turns: int = 4) -> None:
    async def run() -> None:
        while cuts.cuts < cuts_min:
            await cuts.play(turns)

    anyio.run(run)


@pytest.mark.loop_step_ms(50)  # images of disks are made in one step
@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_durable_survives_every_cut(seed: int) -> None:
    """C4: no wrong byte, no lost object, over lives that each begin where a cut of the one before has left off."""
    cuts = RawCuts(seed, DurabilityName.FDATASYNC)
    lives(cuts, CUTS_MIN)
    assert cuts.cuts >= CUTS_MIN


@pytest.mark.loop_step_ms(50)
@pytest.mark.parametrize("seed", range(10, 12))
def test_long_lives_survive_cuts_while_the_log_is_cleaned(seed: int) -> None:
    """C3, C4: the log goes round its ring several times, and is cut while it reuses its blocks."""
    cuts = RawCuts(seed, DurabilityName.FDATASYNC, moments_max=60)
    lives(cuts, CUTS_MIN, turns=60)
    assert cuts.log_head > 4 * BLOCKS_MIN


@pytest.mark.loop_step_ms(50)
@pytest.mark.parametrize("discard", [False, True], ids=["kept", "discarded"])
@pytest.mark.parametrize("seed", range(46, 58, 3))
def test_what_was_promised_nothing_is_there_whole_or_refused(seed: int, discard: bool) -> None:
    """C4: without flushes an object may be gone, or be seen to be damaged; it is never another one, nor a version of
    its own that was written over lives ago and still lies in the slots that its record names.

    Seen to fail with records that tell the CRC of whole headers, which their own CRC makes the same for all.
    """
    for one in range(seed, seed + 3):
        lives(RawCuts(one, DurabilityName.NONE, discard=discard), CUTS_MIN // 2)


@pytest.mark.loop_step_ms(50)
@pytest.mark.parametrize("durability", DurabilityName)
def test_what_is_discarded_is_what_no_cut_brings_back(durability: DurabilityName) -> None:
    """C4: nor what is being written or read, as the disk itself makes sure. What is discarded reads as other bytes."""
    disks: list[RecordingDisk] = []

    def made(image: bytes, draw: random.Random) -> RecordingDisk:
        disks.append(RecordingDisk(image, draw))
        return disks[-1]

    lives(RawCuts(23, durability, made, discard=True), CUTS_MIN)
    assert sum(len(disk.discards) for disk in disks) > 20


@pytest.mark.loop_step_ms(50)
def test_a_build_that_discards_what_is_to_be_deleted_is_seen_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That the harness can fail: a cut brings back a name, and its slots are gone."""

    submit = raw_commit.Committer.submit

    def submitted(committer: raw_commit.Committer, records: Sequence[bytes]) -> raw_commit.Answer:
        volume = committer._books
        assert isinstance(volume, Volume)
        for key in map(key_of, records):
            before = volume.index.get(key)
            if before is not None:
                volume._freed.free(decode_put(before).runs)
                volume.index.remove(key)
        return submit(committer, records)

    monkeypatch.setattr(raw_commit.Committer, "submit", submitted)
    with pytest.raises(WrongAfterCut):
        lives(RawCuts(0, DurabilityName.FDATASYNC, discard=True), 2 * CUTS_MIN)


class LyingDisk(RecordingDisk):
    """Says it has flushed, and has not."""

    def sync_all(self) -> Moved:
        return self._later(lambda: 0)


@pytest.mark.loop_step_ms(50)
def test_a_disk_that_does_not_flush_is_seen_through() -> None:
    """That the harness can fail."""
    with pytest.raises(WrongAfterCut):
        lives(RawCuts(1, DurabilityName.FDATASYNC, LyingDisk), 2 * CUTS_MIN)


@pytest.mark.loop_step_ms(50)
def test_a_build_that_logs_before_it_flushes_is_seen_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That the harness can fail: records become durable before the payloads they name."""

    def always_ready(
        record: bytes, put: bytes | None, asked: raw_commit._Asked, place: int, *, is_ready: bool
    ) -> raw_commit._Change:
        return change(record, put, asked, place, is_ready=True)

    change = raw_commit._Change
    monkeypatch.setattr(raw_commit, "_Change", always_ready)
    with pytest.raises(WrongAfterCut):
        lives(RawCuts(0, DurabilityName.FDATASYNC), 2 * CUTS_MIN)


# The model itself.


def test_the_recording_disk_keeps_what_was_flushed_and_nothing_else_for_sure() -> None:
    async def run() -> None:
        disk = RecordingDisk(bytes(4096), random.Random(0))
        await disk.write_one(0, [b"a" * 1024])
        await disk.sync()
        flushed = disk.clock
        await disk.write_one(512, [b"b" * 1024])
        await disk.write_through(3072, [b"c" * 512])
        written = disk.clock
        assert disk.now() == b"a" * 512 + b"b" * 1024 + bytes(1536) + b"c" * 512 + bytes(512)
        assert disk.image(flushed - 1, Leaving.NOTHING) == bytes(4096)
        assert disk.image(flushed, Leaving.NOTHING) == b"a" * 1024 + bytes(3072)
        kept = disk.image(written, Leaving.NOTHING)
        assert kept == b"a" * 1024 + bytes(2048) + b"c" * 512 + bytes(512)
        assert disk.image(written, Leaving.ALL) == disk.now()
        draw = random.Random(1)
        torn = {disk.image(written, Leaving.SECTORS, draw)[:1536:512] for _ in range(50)}
        assert torn == {b"aa\0", b"ab\0", b"aab", b"abb", b"aa" + b"b"}
        whole = {disk.image(written, Leaving.WRITES, draw)[:1536:512] for _ in range(50)}
        assert whole == {b"aa\0", b"abb"}

    anyio.run(run)


def test_a_sync_covers_only_what_had_ended_when_it_began() -> None:
    async def run() -> None:
        disk = RecordingDisk(bytes(512), random.Random(0))
        write = disk.write_one(0, [b"x" * 512])
        await disk.sync()
        await write
        assert disk.image(disk.clock, Leaving.NOTHING) == bytes(512)
        await disk.sync()
        assert disk.image(disk.clock, Leaving.NOTHING) == b"x" * 512

    anyio.run(run)
