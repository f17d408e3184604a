"""A10 for the raw block store: what it refuses to open, and that it says how to mend it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.raw_opening import config, four_samples, open_and_close, opened, patch, refusal

from penstock.actors.core.slot_format import HEAD_BYTES, encode_superblock, latest_superblock
from penstock.actors.stores import raw_medium
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import StoreRefused
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.units import KIB, MIB, ByteSize, Seconds

# Two who would overwrite each other.


def test_two_ranks_may_not_have_one_path() -> None:
    """A10, in the words of the configuration."""
    with pytest.raises(ValueError, match="ranks 0 and 3 share /dev/x and would overwrite"):
        config(per_rank_device_paths={0: "/dev/x", "3": "/dev/x"})
    with pytest.raises(ValueError, match="give each a device, partition or file of its own"):
        config(paths="/dev/x,/dev/../dev/x")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_two_ranks_may_not_have_one_file_under_two_names(tmp_path: Path, link: Any) -> None:
    """A10: told apart by inode, not by name."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    link(first, second)
    if link is os.symlink:
        with pytest.raises(ValueError, match="share"):
            config(per_rank_device_paths={0: str(first), 1: str(second)})
        return
    told = refusal(config(per_rank_device_paths={0: str(first), 1: str(second)}))
    assert "ranks 0 and 1 share" in told
    assert "give each a device, partition or file of its own" in told


def test_two_stores_may_not_have_one_file(tmp_path: Path) -> None:
    """A10: of this process or another, while either runs."""
    settings = config(paths=str(tmp_path / "device"), lock_within=Seconds(0.05))

    async def run() -> str:
        store = await opened(settings)
        with pytest.raises(StoreRefused) as told:
            await opened(settings)
        await store.aclose()
        return str(told.value)

    assert "belongs to another store or node that is running: give each its own" in anyio.run(run)
    open_and_close(settings)


def test_a_file_that_a_killed_process_still_has_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C4: started again at once after a kill. The kernel gives the lock of a process back when all it had under way is
    over, which may be after its end.

    Seen to fail with a path that is locked refused at once.
    """
    settings = config(paths=str(tmp_path / "device"))
    open_and_close(settings)
    held = [os.open(tmp_path / "device", os.O_RDWR)]
    fcntl.flock(held[0], fcntl.LOCK_EX)
    lock, refused = raw_medium._lock, list[str]()

    def locked(fd: int, path: Path, key: str) -> None:
        try:
            lock(fd, path, key)
        except raw_medium.MediumBusy as busy:
            refused.append(str(busy))
            if len(refused) == 2:
                os.close(held.pop())
            raise

    monkeypatch.setattr(raw_medium, "_lock", locked)
    open_and_close(settings)
    assert not held
    assert len(refused) == 2


@pytest.mark.parametrize("within", [0.0, 1e9])
def test_a_wait_for_a_lock_is_a_time(within: float) -> None:
    with pytest.raises(ValueError, match="lock_within must be 1 ms to"):
        config(paths="/dev/x", lock_within=Seconds(within))


# What is on it already.


def test_another_programs_data_is_never_overwritten(tmp_path: Path) -> None:
    """A10: foreign bytes anywhere in the head of it; the message says how to erase them."""
    path = tmp_path / "device"
    path.write_bytes(bytes(1080) + b"\x53\xef" + bytes(8 * MIB - 1082))  # as ext4 has it
    told = refusal(config(paths=str(path)))
    assert "holds data that is not Penstock's" in told
    assert path.read_bytes()[1080:1082] == b"\x53\xef"
    command = told.partition("`")[2].partition("`")[0]
    subprocess.run(command.split(), check=True, capture_output=True)
    open_and_close(config(paths=str(path)))


def test_a_later_versions_metadata_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A10"""
    path = tmp_path / "device"
    open_and_close(config(paths=str(path)))
    patch(path, 16, b"\x02")
    before = path.read_bytes()
    told = refusal(config(paths=str(path)))
    assert "version 2, this Penstock reads 1" in told
    assert "run that version or a later one, or erase it" in told
    assert path.read_bytes() == before


def test_one_damaged_superblock_does_no_harm_and_two_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "device"
    samples = anyio.run(four_samples)
    assert open_and_close(config(paths=str(path)), save=samples)
    patch(path, 40, b"\xff")
    assert len(open_and_close(config(paths=str(path)))) == len(samples)
    patch(path, HEAD_BYTES // 2 + 40, b"\xff")
    assert "neither of its superblocks is whole: erase it" in refusal(config(paths=str(path)))


def test_another_ranks_device_is_told_of_and_its_objects_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A10: warned. The objects of both ranks are found, and counted where they are."""
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    samples = anyio.run(four_samples)
    before = open_and_close(config(per_rank_device_paths={0: one, 1: other}), save=samples)
    assert len(before) == len(samples)
    caplog.clear()
    swapped = config(per_rank_device_paths={0: other, 1: one})
    with caplog.at_level(logging.WARNING):
        after = open_and_close(swapped)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "it was rank 1's" in told[0]
    assert "name them as they were" in told[0]
    assert sorted(after) == sorted(before)

    async def load_delete_and_save() -> None:
        store = await opened(swapped)
        assert await store.locate(keys_of(samples)) == b"\1" * len(samples)
        await store.save([samples[0].given()])  # now on the other one, and no longer on the first
        await store.delete(keys_of(samples[1:]))
        assert await store.locate(keys_of(samples)) == b"\1" + bytes(len(samples) - 1)
        await store.aclose()

    anyio.run(load_delete_and_save)
    assert open_and_close(swapped) == [samples[0].key]


def test_an_object_on_two_devices_is_dropped_where_it_does_not_belong(tmp_path: Path) -> None:
    """A cut between two logs: each has it."""
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    sample = anyio.run(make_sample, 1, 9000)
    open_and_close(config(per_rank_device_paths={0: one}), save=[sample])
    open_and_close(config(per_rank_device_paths={0: other}), save=[sample])
    both = config(per_rank_device_paths={0: other, 1: one}, capacity=ByteSize(16 * MIB))
    assert open_and_close(both) == [sample.key]
    assert open_and_close(config(per_rank_device_paths={1: one})) == []


def _used_since(path: Path, how: str) -> None:
    """Another program has used what was ours, and left a superblock of ours in place."""
    match how:
        case "partition table":
            patch(path, 446, b"\x80" + bytes(63) + b"\x55\xaa")
        case "LVM":
            patch(path, 512, b"LABELONE")
        case "md":
            patch(path, 4096, b"\xfc\x4e\x2b\xa9")
        case "ext4":
            patch(path, 0, bytes(1024))
            patch(path, 1080, b"\x53\xef")
        case "erased":
            patch(path, 0, bytes(HEAD_BYTES // 2))
        case "btrfs":
            patch(path, 0, bytes(HEAD_BYTES // 2) + b"x" * 64 + b"_BHRfS_M")


@pytest.mark.parametrize("how", ["partition table", "LVM", "md", "ext4", "erased", "btrfs"])
def test_what_was_ours_and_is_used_by_others_now_is_refused(tmp_path: Path, how: str) -> None:
    """A10: a superblock that somebody left in place does not make a device ours again."""
    path = tmp_path / "device"
    open_and_close(config(paths=str(path)), save=anyio.run(four_samples))
    _used_since(path, how)
    before = path.read_bytes()
    told = refusal(config(paths=str(path)))
    assert "Penstock's" in told
    assert "name another device, or" in told
    assert path.read_bytes() == before


def test_a_format_that_was_cut_between_its_superblocks_is_ours(tmp_path: Path) -> None:
    """Generation 1 alone, or with 2, and nothing else: nobody else was there."""
    path = tmp_path / "device"
    open_and_close(config(paths=str(path)))
    head = path.read_bytes()[:HEAD_BYTES]
    found = latest_superblock(head)
    assert found is not None
    first = encode_superblock(found._replace(generation=1))
    second = encode_superblock(found._replace(generation=2))
    for at_0 in (bytes(len(second)), second):
        patch(path, 0, at_0.ljust(HEAD_BYTES // 2, b"\0") + first)
        assert len(open_and_close(config(paths=str(path)), save=anyio.run(four_samples))) == 4


def test_what_is_refused_is_left_as_it_was(tmp_path: Path) -> None:
    """A10: a file of somebody else's is not enlarged, and what was made for nothing is removed."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"precious\n" * 100)
    assert "not Penstock's" in refusal(config(paths=str(path)))
    assert path.read_bytes() == b"precious\n" * 100
    ours = tmp_path / "ours"
    open_and_close(config(paths=str(ours)))
    larger: dict[str, Any] = {"capacity": ByteSize(16 * MIB), "slot_bytes": ByteSize(128 * KIB)}
    assert "say slot_bytes" in refusal(config(paths=str(ours), **larger))
    assert ours.stat().st_size == 8 * MIB
    made = tmp_path / "made"
    refusal(config(paths=f"{made},{path}", capacity=ByteSize(16 * MIB)))
    assert not made.exists()
    with made.open("wb"):
        pass
    refusal(config(paths=f"{made},{path}", capacity=ByteSize(16 * MIB)))
    assert made.exists(), "it was there before"


def test_no_file_is_made_among_devices() -> None:
    """A10: a device that is not there yet."""
    told = refusal(config(paths="/dev/penstock-test-nvme9n9"))
    assert "there is no device" in told
    assert not Path("/dev/penstock-test-nvme9n9").exists()


# What does not fit.


def test_a_device_smaller_than_one_slot_is_refused(tmp_path: Path) -> None:
    """A10: the message says how much is enough, and it is."""
    path = tmp_path / "device"
    settings: dict[str, Any] = {"paths": str(path), "slot_bytes": ByteSize(4 * MIB)}
    told = refusal(config(**settings, capacity=ByteSize(2 * MIB)))
    assert "less than one slot" in told
    enough = int(told.rpartition("at least ")[2].partition(" ")[0])
    refusal(config(**settings, capacity=ByteSize(enough - 4 * KIB)))
    open_and_close(config(**settings, capacity=ByteSize(enough)))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"slot_bytes": ByteSize(128 * KIB)}, "slot_bytes: 65536"),
        (
            {"block_align": ByteSize(8 * KIB), "header_bytes": ByteSize(8 * KIB)},
            "block_align: 4096",
        ),
        ({"header_bytes": ByteSize(8 * KIB)}, "header_bytes: 4096"),
        ({"metadata_bytes": ByteSize(4 * MIB)}, "metadata_bytes: "),
    ],
)
def test_a_device_laid_out_otherwise_is_refused(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    path = str(tmp_path / "device")
    open_and_close(config(paths=path))
    assert f"say {told}" in refusal(config(paths=path, **changed))


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device"
    open_and_close(config(paths=str(path)))
    os.truncate(path, 4 * MIB)
    assert "restore its size" in refusal(config(paths=str(path), capacity=ByteSize(4 * MIB)))


def test_a_larger_capacity_gives_more_slots_and_a_smaller_one_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Less than there was is said at start: objects will go."""
    path = tmp_path / "device"
    samples = anyio.run(four_samples)

    async def capacity(bound: int) -> int:
        store = await opened(config(paths=str(path), capacity=ByteSize(bound)))
        told = store.capacity_bytes
        await store.save([one.given() for one in samples])
        await store.aclose()
        return told

    first = anyio.run(capacity, 8 * MIB)
    assert first < anyio.run(capacity, 9 * MIB)
    assert "capacity_lowered" not in caplog.text
    less = anyio.run(capacity, 4 * MIB)
    assert "raise capacity to keep it" in caplog.text
    assert 2 * MIB < less < 4 * MIB
    assert len(open_and_close(config(paths=str(path)))) == len(samples)


def test_a_file_needs_a_capacity_a_folder_and_room(tmp_path: Path) -> None:
    """C5: a disk too full for the file is found out at once."""
    path = tmp_path / "device"
    assert "give the store a capacity" in refusal(config(paths=str(path), capacity=ByteSize(0)))
    assert not path.exists()
    missing = tmp_path / "missing" / "device"
    assert "does not exist: make it" in refusal(config(paths=str(missing)))
    assert "neither a block device nor a file" in refusal(config(paths=str(tmp_path)))
    free = shutil.disk_usage(tmp_path).free
    told = refusal(config(paths=str(path), capacity=ByteSize(2 * free - 2 * free % 4096)))
    assert "make room, or give it less" in told
    assert not path.exists()


def test_a_configuration_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    """Integer and text keys are ranks; the rest is refused."""
    made = config(per_rank_device_paths={1: "/dev/b", "0": "/dev/a"})
    assert [(place.rank, str(place.path)) for place in made.places()] == [
        (0, "/dev/a"),
        (1, "/dev/b"),
    ]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "give either paths or per_rank_device_paths"),
        ({"paths": "/dev/a", "per_rank_device_paths": {0: "/dev/b"}}, "give either"),
        ({"paths": "dev/a"}, "not an absolute path"),
        ({"per_rank_device_paths": {"x": "/dev/a"}}, "is no rank"),
        ({"per_rank_device_paths": {0: "/dev/a", "0": "/dev/b"}}, "given twice"),
        ({"paths": "/dev/a", "block_align": ByteSize(512)}, "power of two"),
        ({"paths": "/dev/a", "slot_bytes": ByteSize(5000)}, "multiple of block_align"),
        ({"paths": "/dev/a", "slot_bytes": ByteSize(4 * KIB)}, "more than header_bytes"),
        (
            {"paths": "/dev/a", "header_bytes": ByteSize(128 * KIB), "slot_bytes": ByteSize(MIB)},
            "header_bytes must be 4KiB up to 65536",
        ),
        ({"paths": "/dev/a", "jobs_max": 1}, "jobs_max"),
    ]
    for given, said in wrong:
        with pytest.raises(ValueError, match=said):
            config(**given)


def test_ranks_may_be_numbers_in_a_file(tmp_path: Path) -> None:
    from penstock.actors.config import NodeConfig

    path = tmp_path / "node.yaml"
    store = "stores: [{name: a, type: raw_block, per_rank_device_paths: {0: /dev/a, '1': /dev/b}}]"
    path.write_text(store)
    (made,) = load_config(NodeConfig, path).stores
    assert isinstance(made, RawBlockConfig)
    assert [place.rank for place in made.places()] == [0, 1]
    path.write_text(store.replace("/dev/b", "/dev/a"))
    with pytest.raises(ConfigError, match="ranks 0 and 1 share /dev/a"):
        load_config(NodeConfig, path)
