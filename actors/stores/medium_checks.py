"""What is looked at before a device or file is taken for a store: whether somebody else uses it, or would."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.actors.stores.store import StoreRefused

MOUNTS = Path("/proc/self/mountinfo")
DEVICES = Path("/dev")


def _mounts() -> list[str]:
    # A mount's path may be no Unicode text.
    return MOUNTS.read_text(errors="surrogateescape").splitlines()


def lies_in_memory(fd: int) -> bool:
    """Whether what `fd` is of has no disk below it, so that the page cache is all there is. Raises OSError."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _mounts():
        mount, _, filesystem = line.partition(" - ")
        if mount.split(" ")[2] == number:
            return filesystem.split(" ")[0] in {"tmpfs", "ramfs"}
    return False


def check_not_mounted(path: Path, key: str) -> None:
    """Of a block device. Raises StoreRefused, OSError."""
    device = path.stat().st_rdev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _mounts():
        fields = line.split(" ")
        if fields[2] == number:
            problem = f"{path} is mounted at {fields[4]}: unmount it, or name a device nobody uses"
            raise StoreRefused(key, problem)


def check_may_be_made(path: Path, key: str) -> None:
    """Of a path where nothing is. A file among the device nodes lies in memory, and is in the way of the device
    when that appears. Raises StoreRefused, OSError."""
    try:
        folder = path.parent.resolve(strict=True)
    except FileNotFoundError:
        raise StoreRefused(key, f"the folder of {path} does not exist: make it") from None
    if DEVICES not in (folder, *folder.parents):
        return
    # A filesystem of its own that is mounted there, such as /dev/shm, is a place for files.
    if folder.stat().st_dev == DEVICES.stat().st_dev:
        problem = f"there is no device {path}, and no file is made among devices"
        raise StoreRefused(
            key, f"{problem}: see that the device is there, or name a file elsewhere"
        )


def claimed(path: Path) -> str:
    """That the kernel gives a block device to nobody else, and what to do."""
    users = "it or a part of it is mounted elsewhere, or in LVM, RAID or swap, or another store's"
    return f"{path} is in use ({users}): free it, or name another device"
