"""Which weights lie in a directory: a fingerprint of its safetensors files, in milliseconds.

A header names every tensor with its dtype, shape and place, which two fine-tunes of one model have
in common. So a sample of each tensor's own bytes is taken too: training moves every element it
trains, and a sample then differs.

Format: https://huggingface.co/docs/safetensors: u64 little-endian header length, JSON header, data.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from penstock.actors.api.errors import InvalidField

HEADER_BYTES_MAX = 100_000_000  # the format's own bound
SAMPLE_BYTES = 1024  # at the start, in the middle and at the end of each tensor
_LENGTH = struct.Struct("<Q")


class NoWeights(InvalidField):
    """Yours: the directory holds no safetensors files, or one that is damaged or no regular file."""


def safetensors_fingerprint(directory: Path) -> str:
    """The identity of the weights in `directory`, as "safetensors:SHA256" for a namespace.

    Covers the name, the header and three samples of every tensor of each `*.safetensors` file, in
    order of name. A change of other bytes than those is not seen: give the hub commit where there
    is one, or hash the files whole.

    Raises NoWeights; OSError when a file cannot be read.
    """
    digest = hashlib.sha256(b"penstock safetensors 1\0")
    paths = sorted(directory.glob("*.safetensors"), key=lambda path: path.name)
    if not paths:
        raise NoWeights("weights", f"there are no safetensors files in {directory}")
    for path in paths:
        with _open_regular(path) as file:
            for part in _parts(path, file):
                digest.update(_LENGTH.pack(len(part)))
                digest.update(part)
    return f"safetensors:{digest.hexdigest()}"


def _open_regular(path: Path) -> BinaryIO:
    """Without O_NONBLOCK, a pipe that nobody writes would be waited for. Raises NoWeights."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NoWeights("weights", f"{path} is no regular file")
    return os.fdopen(handle, "rb")


def _parts(path: Path, file: BinaryIO) -> Iterator[bytes]:
    yield os.fsencode(path.name)
    length = file.read(_LENGTH.size)
    header_bytes = _LENGTH.unpack(length)[0] if len(length) == _LENGTH.size else 0
    if not 0 < header_bytes <= HEADER_BYTES_MAX:
        raise NoWeights("weights", f"{path} does not begin with a safetensors header")
    header = file.read(header_bytes)
    yield header
    data_start = _LENGTH.size + header_bytes
    data_bytes = os.fstat(file.fileno()).st_size - data_start
    for start, end in _tensors(path, header, data_bytes):
        middle = start + max(0, end - start - SAMPLE_BYTES) // 2
        for place in (start, middle, max(start, end - SAMPLE_BYTES)):
            file.seek(data_start + place)
            yield file.read(min(SAMPLE_BYTES, end - place))


def _tensors(path: Path, header: bytes, data_bytes: int) -> list[tuple[int, int]]:
    """Begin and end of every tensor in the data, in their order there."""
    damaged = NoWeights("weights", f"{path} has a damaged safetensors header, or ends early")
    try:
        tensors = json.loads(header)
        places = sorted(
            (start, end)
            for name, tensor in tensors.items()
            if name != "__metadata__"
            for start, end in [tensor["data_offsets"]]
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if data_bytes < 0:
        raise damaged
    for start, end in places:
        if not (type(start) is type(end) is int and 0 <= start <= end <= data_bytes):
            raise damaged
    return places
