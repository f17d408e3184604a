"""Recorded request traces, read as a stream: which blocks each prompt was made of, and when it came.
How they are written is said in FORMATS.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from penstock.runtime.errors import CallerError

FORMATS = """\
A trace says of every prompt which blocks it was made of, and when it came:

mooncake  a line is one JSON object, {"timestamp": 27482, "hash_ids": [46, 47, 2353]}: milliseconds, and a number for
          each block of 512 tokens, which means the same block after the same prefix wherever it occurs
agentic   a file is one JSON object, {"requests": [{"t": 1.5, "hash_ids": [1, 2, 3]}]}: seconds; numbers mean something
          within their file only, unless it says "hash_id_scope": "global". A folder of such files (*.json) is read in
          order of name; a request of "type": "subagent" may hold "requests" of its own instead of numbers

Further keys are not looked at. Without --format a folder or FILE.json is agentic and FILE.jsonl mooncake; of any other
name the first line decides.
"""
LINE_BYTES_MAX = 64 * 1024 * 1024  # of a Mooncake trace
FILE_BYTES_MAX = 1024 * 1024 * 1024  # of an agentic trace, which must be read whole
NESTED_MAX = 8  # subagents of subagents


class TraceFormat(enum.Enum):
    """How a trace is written; AUTO looks at its name, then at its first line."""

    AUTO = "auto"
    MOONCAKE = "mooncake"
    AGENTIC = "agentic"


class TraceMalformed(CallerError):
    """Yours: the trace cannot be read. The message begins with FILE:LINE."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}" if line else f"{path}: {problem}")
        self.path = path
        self.line = line  # from 1; 0: the file as a whole


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One prompt: equal (scope, id) means equal block after an equal prefix."""

    at_s: float  # since the start of its file, never decreasing in a well-kept trace
    scope: str  # within which the ids mean something; empty: everywhere
    blocks: tuple[int, ...]


Id = Annotated[int, msgspec.Meta(ge=0)]
Time = Annotated[float, msgspec.Meta(ge=0)]


class _MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: Time  # ms
    hash_ids: tuple[Id, ...]


class _AgenticRequest(msgspec.Struct, frozen=True):
    t: Time  # s
    type: str = ""
    hash_ids: tuple[Id, ...] | None = None
    requests: tuple[_AgenticRequest, ...] = ()


class _AgenticFile(msgspec.Struct, frozen=True):
    requests: tuple[_AgenticRequest, ...]
    hash_id_scope: str = "local"


def read_trace(path: Path, trace_format: TraceFormat) -> Iterator[TraceRequest]:
    """The requests of a file, or of a folder of agentic files, in order.

    Raises TraceMalformed at the first line that cannot be read; what came before was good.
    """
    try:
        if trace_format is TraceFormat.AUTO:
            trace_format = _guess(path)
        if trace_format is TraceFormat.MOONCAKE:
            yield from _read_mooncake(path)
        else:
            for file in _agentic_files(path):
                yield from _read_agentic(file)
    except OSError as problem:
        raise TraceMalformed(path, 0, problem.strerror or str(problem)) from problem


def _guess(path: Path) -> TraceFormat:
    if path.is_dir() or path.suffix == ".json":
        return TraceFormat.AGENTIC
    if path.suffix == ".jsonl":
        return TraceFormat.MOONCAKE
    with path.open("rb") as file:
        try:
            msgspec.json.decode(file.readline(LINE_BYTES_MAX), type=_MooncakeLine)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return TraceFormat.AGENTIC
    return TraceFormat.MOONCAKE


def _read_mooncake(path: Path) -> Iterator[TraceRequest]:
    decoder = msgspec.json.Decoder(_MooncakeLine)
    with path.open("rb") as file:
        for number, line in enumerate(_lines(path, file), start=1):
            if not line.strip():
                continue
            try:
                read = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as problem:
                raise TraceMalformed(path, number, str(problem)) from problem
            yield TraceRequest(read.timestamp / 1000, "", read.hash_ids)


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX):
        number += 1
        if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
            raise TraceMalformed(path, number, f"the line is longer than {LINE_BYTES_MAX} bytes")
        yield line


def _agentic_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    files = sorted(path.glob("*.json"), key=lambda file: file.name)
    if not files:
        raise TraceMalformed(path, 0, "the folder holds no .json files")
    yield from files


def _read_agentic(path: Path) -> Iterator[TraceRequest]:
    size_bytes = path.stat().st_size
    if size_bytes > FILE_BYTES_MAX:
        raise TraceMalformed(path, 0, f"has {size_bytes} bytes, {FILE_BYTES_MAX} is the bound")
    text = path.read_bytes()
    try:
        # The standard library tells the line of what is no JSON.
        read = msgspec.convert(json.loads(text), _AgenticFile)
    except json.JSONDecodeError as problem:
        raise TraceMalformed(path, problem.lineno, problem.msg) from problem
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError) as problem:
        raise TraceMalformed(path, 1, str(problem)) from problem
    scope = "" if read.hash_id_scope == "global" else path.name
    for index, request in enumerate(read.requests):
        yield from _flatten(path, scope, f"$.requests[{index}]", request, NESTED_MAX)


def _flatten(
    path: Path, scope: str, place: str, request: _AgenticRequest, nested_max: int
) -> Iterator[TraceRequest]:
    """A request and, after it, those of its subagents."""
    if request.hash_ids is not None:
        yield TraceRequest(request.t, scope, request.hash_ids)
    elif not request.requests and request.type != "subagent":
        raise TraceMalformed(path, 1, f"Object missing required field `hash_ids` - at `{place}`")
    if request.requests and not nested_max:
        raise TraceMalformed(path, 1, f"subagents nested deeper than {NESTED_MAX} - at `{place}`")
    for index, inside in enumerate(request.requests):
        yield from _flatten(path, scope, f"{place}.requests[{index}]", inside, nested_max - 1)
