"""Baselines that are fio with io_uring, at the block size, the depth and in the folder of the store beside them.

`OneFile`: what the disk gives with hardly any work of a filesystem: a file whose room has been taken before is written
from its beginning, then read at random. `FilePerObject`: what the filesystem leaves of that to anybody who
makes a file for each object: each is made, written in one block and closed, then opened, read and closed.

Both read what they have just written, as the stores do: disks of virtual machines are cached by their hosts. Nothing is
deleted before the whole folder is (`bench_folder.py`).

A fio takes half a second to begin and to end: so one runs for all rounds. Each of its jobs waits for a line before it
begins, and writes one when it is over (`FioJobs`).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from bench_folder import fresh_folder
from store_sides import Shape, Turn, drop_page_cache

from penstock.runtime.units import GIB, MIB

DIRECT_BYTES, BUFFERED_BYTES = 144 * MIB, 96 * MIB  # in a turn, at most
MANY_FILES_MAX = 768
RAMP_S = 0.05  # of reading, not counted: fio's own memory is touched for the first time
JOB_WITHIN_S = 60.0
TMPFS = "/dev/shm"

Words = Sequence[str]


class FioJobs:
    """One fio, the jobs of which run when they are told to, in order."""

    def __init__(self, common: Words, jobs: Iterable[Words]) -> None:
        """Raises OSError."""
        with ExitStack() as opened:
            place = opened.enter_context(tempfile.TemporaryDirectory(dir=TMPFS))
            self._go, self._done = (_fifo(Path(place) / name, opened) for name in ("go", "done"))
            told = ["--exec_prerun=read line < go", "--exec_postrun=sh -c 'echo > done'"]
            command = ["fio", "--output-format=json", "--output=seen", "--thread", *common, *told]
            for number, words in enumerate(jobs):
                command += [f"--name=job{number}", "--stonewall", *words]
            self._fio = subprocess.Popen(
                command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            opened.enter_context(self._fio)
            opened.callback(self._fio.kill)
            self._seen = Path(place) / "seen"
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def run_next(self) -> None:
        """One job, to its end. Raises RuntimeError."""
        os.write(self._go, b"\n")
        if not select.select([self._done], [], [], JOB_WITHIN_S)[0]:
            self._fio.kill()
            raise RuntimeError(f"fio did not finish a job: {self._fio.communicate()[0]}")
        os.read(self._done, 1)

    def results(self) -> list[dict[str, dict[str, float]]]:
        """Of all jobs, when the last is over. Raises RuntimeError."""
        told, _ = self._fio.communicate(timeout=JOB_WITHIN_S)
        if self._fio.returncode:
            raise RuntimeError(f"fio: {told}")
        _, _, seen = self._seen.read_text().partition(
            "\n{"
        )  # before it fio tells what it ran for us
        found: list[dict[str, dict[str, float]]] = json.loads("{" + seen)["jobs"]
        return found


class _FioSide:
    """Both kinds: a job that writes and one that reads in each turn."""

    def __init__(
        self, folder: Path, shape: Shape, stack: ExitStack, *, direct: int, rounds: int
    ) -> None:
        """`stack` ends what has not ended by itself."""
        self._folder, self._shape, self._is_direct = folder, shape, direct == 1
        half_ms, ramp_ms = round(shape.half_s * 1000), round(RAMP_S * 1000)
        # What is not cached may be read as often as there is time.
        again = ["--time_based", f"--runtime={half_ms}ms", f"--ramp_time={ramp_ms}ms"]
        self._again = again if direct else []
        self._bytes_max = DIRECT_BYTES if direct else BUFFERED_BYTES
        common = [
            f"--directory={folder}",
            f"--bs={shape.object_bytes}",
            f"--iodepth={shape.depth}",
            f"--direct={direct}",
            "--ioengine=io_uring",
            "--randrepeat=0",
            "--scramble_buffers=0",  # we write the same bytes again, too
        ]
        pairs = [self._jobs(number) for number in range(rounds)]
        # Two of them: the next job of one gets ready while the other's runs.
        self._writing = stack.enter_context(FioJobs(common, [writing for writing, _ in pairs]))
        self._reading = stack.enter_context(FioJobs(common, [reading for _, reading in pairs]))

    def _jobs(self, number: int) -> tuple[Words, Words]:
        """(writing, reading) in a turn."""
        raise NotImplementedError

    async def turn(self, number: int) -> None:
        del number
        self._writing.run_next()
        if not self._is_direct:
            drop_page_cache(self._folder)
        self._reading.run_next()

    def turns(self) -> list[Turn]:
        pairs = zip(self._writing.results(), self._reading.results(), strict=True)
        return [
            Turn(writing["write"]["bw_bytes"] / GIB, reading["read"]["bw_bytes"] / GIB)
            for writing, reading in pairs
        ]


class OneFile(_FioSide):
    def _jobs(self, number: int) -> tuple[Words, Words]:
        one = [
            f"--filename=one-{number}",
            f"--size={self._bytes_max}",
            "--invalidate=0",
        ]
        return [*one, "--rw=write", "--fallocate=posix"], [*one, "--rw=randread", *self._again]


class FilePerObject(_FioSide):
    def _jobs(self, number: int) -> tuple[Words, Words]:
        size, depth = self._shape.object_bytes, self._shape.depth
        files = min(MANY_FILES_MAX, self._bytes_max // size)
        place = fresh_folder(self._folder, f"many-{number}").name
        many = [f"--nrfiles={files}", f"--filesize={size}", f"--size={files * size}"]
        many += [f"--openfiles={2 * depth}", "--file_service_type=sequential", "--invalidate=0"]
        many += [f"--filename_format={place}/$filenum", "--create_on_open=1", "--fallocate=none"]
        return [*many, "--rw=write"], [*many, "--rw=read", *self._again]


def _fifo(path: Path, opened: ExitStack) -> int:
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)  # opened by nobody else it neither waits nor ends
    opened.callback(os.close, fd)
    return fd
