"""Messages that are long where they may be: what few mutations would ever reach, and what holds the loop longest."""

from __future__ import annotations

import hashlib
from functools import cache

from google.protobuf.message import DecodeError
from session_input import Step

from penstock.protos import engine_pb2

GROWN_BYTES_MAX = 6 << 20  # beyond the shipped bound of a message


@cache
def key_chain(family: int, chunks: int) -> bytes:
    """Packed keys of a prompt: those of one family are prefixes of each other."""
    return b"".join(hashlib.sha256(b"%d %d" % (family, index)).digest() for index in range(chunks))


def grown(step: Step) -> bytes:
    """The message of a GROW step. Its first byte says how far; what cannot be long stays as it is."""
    raw = step.payload[1:]
    times = 1 << (step.payload[0] % 16 if step.payload else 0)
    try:
        request = engine_pb2.SessionRequest.FromString(raw)
    except DecodeError:
        return (raw * times)[:GROWN_BYTES_MAX]
    match request.WhichOneof("body"):
        case "lookup" | "reserve" | "prefetch" | "touch" as body:
            _grow_prompt(getattr(request, body).prompt, times)
        case "commit":
            request.commit.indices.extend(range(times))
            request.commit.digests = bytes(8 * times)
        case "release":
            request.release.damaged.extend(range(times))
        case "hello":
            _grow_hello(request.hello, times)
    return request.SerializeToString()


def _grow_prompt(prompt: engine_pb2.Prompt, times: int) -> None:
    holder = prompt.delta if prompt.HasField("delta") else prompt
    if holder.tokens:
        holder.tokens = (holder.tokens * times)[:GROWN_BYTES_MAX]
    else:
        holder.keys = key_chain(len(prompt.salt), times)
    for chunk in range(min(times, 2048) if prompt.extras else 0):
        prompt.extras.add(chunk=chunk, extra=b"x" * 64)


def _grow_hello(hello: engine_pb2.Hello, times: int) -> None:
    """More layers in every group, and then more groups."""
    for group in hello.groups:
        names = [f"{name}.{index}" for name in group.layer_names for index in range(times)]
        del group.layer_names[:]
        group.layer_names.extend(names[:4096])
    for index in range(min(times, 64 - len(hello.groups)) if hello.groups else 0):
        group = hello.groups.add()
        group.CopyFrom(hello.groups[0])
        group.name = f"{group.name}{index}"
        group.kv_heads = 2 + index
        if hello.own_shards:
            hello.own_shards.append(0)
