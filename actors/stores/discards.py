"""The system's ways to say that a part of a device or file is not needed any more. All of it blocks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""Offset and size, in bytes."""

BLKDISCARD = 0x1277  # of linux/fs.h: _IO(0x12, 119)
FALLOC_FL_KEEP_SIZE = 0x01  # of linux/falloc.h
FALLOC_FL_PUNCH_HOLE = 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def discard_blocks(fd: int, span: Span) -> None:
    """Of a block device. Raises OSError."""
    fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", *span))


def punch_holes(fd: int, span: Span) -> None:
    """Of a regular file, which stays as long as it is. Raises OSError."""
    if _libc.fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, *span):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
