"""Traces as `penstock simulate` wants them: packed once, replayed many times."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from penstock.actors.cli.traces import TraceFormat, TraceRequest, read_trace

MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class PackedTrace:
    """All prompts of a trace, one after the other."""

    name: str
    keys: bytes  # 32 bytes a block
    lengths: bytes  # packed u32, the blocks of each prompt
    numbers: bytes  # packed u32 a block: equal numbers are equal blocks; dense from 0
    blocks_different: int

    @property
    def blocks(self) -> int:
        return len(self.keys) // 32


def load(path: Path, trace_format: TraceFormat, requests_max: int | None) -> list[PackedTrace]:
    """The traces of a file, or of a folder: each of its files alone, then all of them mixed.

    Raises TraceMalformed.
    """
    if not path.is_dir():
        return [pack(path.stem, islice(read_trace(path, trace_format), requests_max))]
    files: dict[str, list[TraceRequest]] = {}
    for request in read_trace(path, trace_format):
        files.setdefault(request.scope or MIXED, []).append(request)
    alone = [pack(Path(name).stem, islice(one, requests_max)) for name, one in files.items()]
    if len(files) == 1:
        return alone
    return [*alone, pack(MIXED, islice(mixed(files.values()), requests_max))]


def mixed(files: Iterable[Iterable[TraceRequest]]) -> Iterator[TraceRequest]:
    """As if all files began at once. What a file has out of order stays where it is in its file."""

    def timed(
        file: int, requests: Iterable[TraceRequest]
    ) -> Iterator[tuple[float, int, TraceRequest]]:
        at_s = 0.0
        for request in requests:
            at_s = max(at_s, request.at_s)
            yield at_s, file, request

    merged = heapq.merge(
        *(timed(file, requests) for file, requests in enumerate(files)),
        key=lambda one: one[:2],
    )
    return (request for _, _, request in merged)


def pack(name: str, requests: Iterable[TraceRequest]) -> PackedTrace:
    """A block's key is H(scope || id), as `penstock replay` names it."""
    numbers_of: dict[tuple[str, int], int] = {}
    keys_of: list[bytes] = []
    numbers = array("I")
    lengths = array("I")
    for request in requests:
        lengths.append(len(request.blocks))
        for block in request.blocks:
            number = numbers_of.setdefault((request.scope, block), len(keys_of))
            if number == len(keys_of):
                keys_of.append(hashlib.sha256(b"%s\0%d" % (request.scope.encode(), block)).digest())
            numbers.append(number)
    return PackedTrace(
        name=name,
        keys=b"".join(keys_of[number] for number in numbers),
        lengths=lengths.tobytes(),
        numbers=numbers.tobytes(),
        blocks_different=len(keys_of),
    )
