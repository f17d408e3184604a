"""Small filesystems and block devices of a test's own, where the machine lets one have them."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2
PACKAGES = {
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "umount": "mount",
    "losetup": "mount, or util-linux",
}


@contextmanager
def mounted(kind: str, at: Path, *, options: str = "", device: str = "none") -> Iterator[Path]:
    """The filesystem on `device`, or one without a disk (`tmpfs`, `ramfs`), at `at`.

    Skips the test where that is not allowed.
    """
    at.mkdir()
    flags = ["-o", options] if options else []
    made = _run("mount", "-t", kind, *flags, device, str(at))
    if made.returncode:
        pytest.skip(
            f"mount -t {kind} is refused here ({made.stderr.strip()}): run the test as root"
        )
    try:
        yield at
    finally:
        undone = _run("umount", str(at))
        assert not undone.returncode, undone.stderr


@contextmanager
def disk_image(folder: Path, *, size_bytes: int) -> Iterator[Path]:
    """An ext4 filesystem in a file of `folder`, by a loop device."""
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    made = _run("mkfs.ext4", "-q", str(image))
    if made.returncode:
        pytest.skip(f"mkfs.ext4 fails here ({made.stderr.strip()}): install e2fsprogs")
    with mounted("ext4", folder / "image-root", options="loop", device=str(image)) as at:
        yield at


@contextmanager
def loop_device(folder: Path, *, size_bytes: int) -> Iterator[Path]:
    """A block device over a file of `folder`."""
    backing = folder / "backing"
    backing.touch()
    os.truncate(backing, size_bytes)
    made = _run("losetup", "--find", "--show", str(backing))
    if made.returncode:
        pytest.skip(f"no loop device ({made.stderr.strip()}): run as root, with loop devices")
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        undone = _run("losetup", "--detach", str(device))
        assert not undone.returncode, undone.stderr


def shut_down(at: Path) -> None:
    """Let the filesystem at `at` die as if its disk was pulled: every access to the disk is an error from now on."""
    fd = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(fd)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is missing: install {PACKAGES[command[0]]}")
