"""A folder on the disk that is measured: a filesystem that was busy before must not be what is measured.

An ext4 without a journal looks at every inode of a group of blocks that was freed in the last minute or more before it
makes a file there, which takes up to a millisecond; with `discard` it waits for the disk to trim what is deleted, which
takes some. So what is made here goes to groups where nothing was deleted, and many threads delete it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

DELETING_THREADS = 64
TRIES = 64
PROBES, QUICK_S = 8, 60e-6  # files made to see whether a group is quick, and how long each may take
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # linux/fs.h
_TOPDIR = 0x00020000  # folders in it are spread over the disk, as those of a root are


@contextmanager
def bench_folder() -> Iterator[Path]:
    """Empty, below TMPDIR; /var/tmp unless it is set."""
    parent = os.environ.get("TMPDIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=parent) as name:
        try:
            yield spread(Path(name))
        finally:
            with ThreadPoolExecutor(DELETING_THREADS) as threads:
                files = (path for path in Path(name).rglob("*") if not path.is_dir())
                for _ in threads.map(Path.unlink, [*files]):
                    pass


def fresh_folder(parent: Path, name: str) -> Path:
    """A new one, where files are made quickly, or as quickly as it gets. Its name begins with `name`."""
    spread(parent)
    seen: dict[float, Path] = {}
    for _ in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        probes = [folder / f"{probe}" for probe in range(PROBES)]
        begin = time.perf_counter()
        for probe in probes:
            probe.touch()
        took_s = (time.perf_counter() - begin) / PROBES
        for probe in probes:
            probe.unlink()
        seen[took_s] = folder
        if took_s <= QUICK_S:
            break
    return seen[min(seen)]


def spread(folder: Path) -> Path:
    """Let each folder that is made in it have a group of blocks of its own, where the filesystem knows of such."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        flags = bytearray(8)
        with suppress(OSError):  # another filesystem
            fcntl.ioctl(fd, _GET_FLAGS, flags)
            value = int.from_bytes(flags, "little") | _TOPDIR
            fcntl.ioctl(fd, _SET_FLAGS, value.to_bytes(8, "little"))
    finally:
        os.close(fd)
    return folder
