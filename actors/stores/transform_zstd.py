"""Compression by Zstandard (RFC 8878)."""

from __future__ import annotations

from collections import deque

import zstandard

from penstock.actors.stores.header import Header, whole_blocks
from penstock.actors.stores.transform import Effort, Unreadable
from penstock.actors.stores.transform_config import ZstdConfig
from penstock.runtime.units import KIB, MIB

STEP_BYTES = (
    128 * KIB
)  # between two looks at whether it pays, and whether anybody waits: 0.1 to 80 ms
READ_BYTES = 4 * MIB  # decompressed between two such looks
WINDOW_BYTES_MAX = 8 * MIB  # the most that reading one object may need beside it


class ZstdStep:
    name = b"zstd"
    is_required = False

    def __init__(self, config: ZstdConfig) -> None:
        self._level = config.level
        # Each serves one thread at a time; as many are kept as there were threads at once.
        self._compressors: deque[zstandard.ZstdCompressor] = deque()
        self._decompressors: deque[zstandard.ZstdDecompressor] = deque()

    def apply(
        self, header: Header, source: memoryview, room: memoryview, effort: Effort
    ) -> tuple[Header, memoryview] | None:
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=self._level)
        size = _compress(compressor, source, room, effort)
        self._compressors.append(compressor)
        return None if size is None else (header, room[:size])

    def undo(
        self, header: Header, stored: memoryview, room: memoryview, effort: Effort
    ) -> tuple[Header, memoryview]:
        try:
            decompressor = self._decompressors.pop()
        except IndexError:
            decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        size = _decompress(decompressor, stored, room, effort)
        self._decompressors.append(decompressor)
        return header, room[:size]


def _decompress(
    decompressor: zstandard.ZstdDecompressor,
    stored: memoryview,
    room: memoryview,
    effort: Effort,
) -> int:
    """How many bytes of `room` it takes. Raises Unreadable, Abandoned."""
    size = 0
    try:
        with decompressor.stream_reader(stored) as reader:
            while size < len(room) and (count := reader.readinto(room[size : size + READ_BYTES])):
                size += count
                effort.check()
            if reader.read(1):
                raise Unreadable(f"it is more than {len(room)} bytes when decompressed")
    except zstandard.ZstdError as error:
        raise Unreadable(f"it cannot be decompressed: {error}") from None
    return size


def _compress(
    compressor: zstandard.ZstdCompressor, source: memoryview, room: memoryview, effort: Effort
) -> int | None:
    """How many bytes of `room` it takes; None as soon as it is clear that it saves no block. Raises Abandoned."""
    size_max = whole_blocks(len(source)) - whole_blocks(1)
    process = compressor.compressobj(size=len(source))
    size = 0
    for start in range(0, len(source) + 1, STEP_BYTES):
        effort.check()
        is_last = start + STEP_BYTES > len(source)
        made = process.compress(source[start : start + STEP_BYTES])
        if is_last:
            made += process.flush()
        if size + len(made) > size_max:
            return None
        room[size : size + len(made)] = made
        size += len(made)
    return size
