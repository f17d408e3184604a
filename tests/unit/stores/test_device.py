"""A device over the engines of its store."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import anyio

from penstock._native import Caching, IoBackend
from penstock.actors.stores.device import NativeDevice, begin_device_io
from penstock.actors.stores.native_io import NativeIo
from penstock.runtime.log import Log

BLOCK = bytes(range(256)) * 16


def test_only_payloads_wait_behind_payloads(tmp_path: Path) -> None:
    """A load, the log and a flush pass those that wait to be written, however many.

    Seen to fail (out of time) with one engine for all.
    """

    async def run() -> None:
        begin = partial(NativeIo, depth=1, threads=1, jobs_max=64, backend=IoBackend.THREADS)
        io = await begin_device_io(begin, Log("test"))
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
        folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        device = NativeDevice(io, fd, name="disk", size_bytes=1 << 20)
        os.mkfifo(tmp_path / "pipe")
        # The only thread for payloads waits for the other end of it.
        stuck = io.payloads.read_files([(folder, "pipe", Caching.BUFFERED, [bytearray(8)])], None)
        payload = device.write([(0, [BLOCK])], None)
        into = bytearray(len(BLOCK))
        with anyio.fail_after(10):
            assert await device.write_first([(len(BLOCK), [BLOCK])], None) == [len(BLOCK)]
            assert await device.read([(len(BLOCK), [into])], None) == [len(BLOCK)]
            assert await device.sync() == [0]
        assert into == BLOCK
        assert not payload.done()
        other_end = os.open(tmp_path / "pipe", os.O_RDWR)
        with anyio.fail_after(10):
            await stuck
            assert await payload == [len(BLOCK)]
        os.close(other_end)
        await io.aclose()
        device.close()
        os.close(folder)

    anyio.run(run)
