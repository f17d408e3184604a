"""A10 on real block devices: what the raw block store keeps on them, and which it refuses."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from support.raw_opening import config, four_samples, open_and_close, opened, refusal

from penstock.actors.core.slot_format import HEAD_BYTES, latest_superblock
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.runtime.units import MIB, ByteSize, Seconds


def test_a_block_device_keeps_objects(loop_device: Path) -> None:
    """All of it is used when there is no capacity; it is claimed from the kernel."""
    settings = config(paths=str(loop_device), capacity=ByteSize(0))
    samples = anyio.run(four_samples)
    assert len(open_and_close(settings, save=samples)) == len(samples)

    async def load() -> None:
        store = await opened(settings)
        assert 14 * MIB < store.capacity_bytes < 16 * MIB
        wanted = [one.wanted() for one in samples]
        await store.load(wanted)
        assert [await one.is_in(into) for one, into in zip(samples, wanted, strict=True)]
        with pytest.raises(OSError, match="busy"):
            os.open(loop_device, os.O_RDWR | os.O_EXCL)
        await store.aclose()

    anyio.run(load)
    (head,) = fresh_pages([HEAD_BYTES])
    with loop_device.open("rb") as file:
        head[:] = file.read(HEAD_BYTES)
    assert latest_superblock(head) is not None


def test_a_block_device_is_told_of_what_is_freed(loop_device: Path, tmp_path: Path) -> None:
    """By discards, which a loop device hands on to its file. Seen to fail without `discard`."""
    backing = tmp_path / "backing"
    durability = DurabilityName.FDATASYNC
    settings = config(
        paths=str(loop_device), capacity=ByteSize(0), discard=True, durability=durability
    )

    async def run() -> None:
        store = await opened(settings)
        samples = [await make_sample(n, 500_000) for n in range(8)]
        await store.save([one.given() for one in samples])
        full = backing.stat().st_blocks * 512
        await store.delete(keys_of(samples[1:]))
        await store._volumes[0].wait_idle()
        assert full - backing.stat().st_blocks * 512 > 6 * 500_000
        into = samples[0].wanted()
        await store.load([into])
        assert await samples[0].is_in(into)
        await store.aclose()

    anyio.run(run)


def test_a_mounted_device_is_refused(loop_device: Path, tmp_path: Path) -> None:
    """A10: mounted by us, or in use by whom the kernel knows."""
    made = subprocess.run(["mkfs.ext4", "-q", str(loop_device)], capture_output=True, check=False)
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", str(loop_device), str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode or mounted.returncode:
        pytest.skip(f"a filesystem cannot be mounted ({mounted.stderr.strip()}): run as root")
    try:
        told = refusal(config(paths=str(loop_device)))
        assert f"is mounted at {folder}: unmount it" in told
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert "not Penstock's" in refusal(config(paths=str(loop_device)))
    held = os.open(loop_device, os.O_RDWR | os.O_EXCL)
    try:
        told = refusal(config(paths=str(loop_device), lock_within=Seconds(0.05)))
        assert "is in use" in told
    finally:
        os.close(held)


def test_one_block_device_under_two_names_is_refused(loop_device: Path, tmp_path: Path) -> None:
    """A10: told apart by device number."""
    other = tmp_path / "other"
    with suppress(PermissionError):
        os.mknod(other, 0o60600, loop_device.stat().st_rdev)
    if not other.exists():
        pytest.skip("device nodes may not be made here: run as root")
    told = refusal(config(per_rank_device_paths={0: str(loop_device), 1: str(other)}))
    assert "ranks 0 and 1 share" in told
