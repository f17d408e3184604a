"""Messages that are right, to be mutated: a Hello with two groups, and every request in its common forms."""

from __future__ import annotations

import struct

from session_growth import key_chain
from session_input import Named, symbol

from penstock.protos import engine_pb2

CHUNK_TOKENS = 4
OBJECT_BYTES = (8192, 4096)  # of a chunk in each group
RUNS = (2, 1)
Request = engine_pb2.SessionRequest


def hello(*, instance: int = 0, resume: bool = False, moves_bytes: bool = True) -> Request:
    """Full attention and a sliding window, one shard each."""
    greeting = engine_pb2.Hello(
        protocol_version=1,
        engine_instance=b"instance %08d" % instance,
        client="fuzz",
        namespace=engine_pb2.Namespace(
            weights="model@" + "a" * 40, model_config_digest=b"c" * 32, byte_order="canonical"
        ),
        own_shards=[0, 0] if moves_bytes else [],
    )
    full = greeting.groups.add(name="full", attention=engine_pb2.ATTENTION_KIND_FULL)
    window = greeting.groups.add(
        name="window", attention=engine_pb2.ATTENTION_KIND_WINDOW, window_tokens=2 * CHUNK_TOKENS
    )
    for group, size, runs in zip((full, window), OBJECT_BYTES, RUNS, strict=True):
        group.block_tokens = 2
        group.layer_names.append(f"{group.name}.0")
        group.kv_heads, group.head_size, group.components = 1, 8, runs
        group.dtype = "float16"
        group.shards.add(token_bytes=size // CHUNK_TOKENS, runs=runs)
    if resume:
        greeting.resume, greeting.epoch = symbol(Named.SECRET), symbol(Named.EPOCH)
    return Request(correlation_id=1, hello=greeting)


def prompt(
    *, family: int = 0, chunks: int = 4, salt: bytes = b"", tokens: bool = False
) -> engine_pb2.Prompt:
    """Packed keys, or tokens of so many chunks and a rest; prompts of one family share their prefix."""
    if not tokens:
        return engine_pb2.Prompt(keys=key_chain(family, chunks), salt=salt)
    count = chunks * CHUNK_TOKENS + 1
    return engine_pb2.Prompt(tokens=struct.pack(f"<{count}I", *[family] * count), salt=salt)


def delta(*, base: int, base_chunks: int = 0, more: int = 1) -> engine_pb2.Prompt:
    return engine_pb2.Prompt(
        delta=engine_pb2.Delta(base=base, base_chunks=base_chunks, keys=key_chain(9, more))
    )


def lookup(
    what: engine_pb2.Prompt, *, readers: int = 1, name: str = "", ticket_ms: int = 0
) -> Request:
    body = engine_pb2.Lookup(prompt=what, request_id=name, readers=readers, ticket_ms=ticket_ms)
    return Request(correlation_id=2, lookup=body)


def acquire(*, rank: int = 0, first_chunk: int = 0, lease_ms: int = 0, nth: int = 0) -> Request:
    body = engine_pb2.Acquire(
        ticket=symbol(Named.TICKET, nth), rank=rank, first_chunk=first_chunk, lease_ms=lease_ms
    )
    return Request(correlation_id=3, acquire=body)


def release(*damaged: int, nth: int = 0) -> Request:
    body = engine_pb2.Release(lease=symbol(Named.READ_LEASE, nth), damaged=damaged)
    return Request(correlation_id=4, release=body)


def reserve(what: engine_pb2.Prompt, *, lease_ms: int = 0, parent: bytes = b"") -> Request:
    body = engine_pb2.Reserve(prompt=what, parent=parent, lease_ms=lease_ms)
    return Request(correlation_id=5, reserve=body)


def commit(*indices: int, count: int = 0, runs: int = 0, nth: int = 0) -> Request:
    """Of `indices`, or of all `count` that were granted."""
    digests = struct.pack(f"<{len(indices) or count}Q", *range(len(indices) or count))
    body = engine_pb2.Commit(
        lease=symbol(Named.WRITE_LEASE, nth),
        indices=indices,
        digests=digests,
        runs=bytes(8 * runs),
    )
    return Request(correlation_id=6, commit=body)


def abort(*, nth: int = 0) -> Request:
    return Request(correlation_id=7, abort=engine_pb2.Abort(lease=symbol(Named.WRITE_LEASE, nth)))


def cancel(*, nth: int = 0) -> Request:
    return Request(correlation_id=8, cancel=engine_pb2.Cancel(ticket=symbol(Named.TICKET, nth)))


def prefetch(what: engine_pb2.Prompt) -> Request:
    return Request(correlation_id=9, prefetch=engine_pb2.Prefetch(prompt=what))


def pd_send(what: engine_pb2.Prompt, *, within_ms: int = 0) -> Request:
    body = engine_pb2.PdSend(prompt=what, request_id="r", target="b", within_ms=within_ms)
    return Request(correlation_id=13, pd_send=body)


def pd_expect(what: engine_pb2.Prompt, *, readers: int = 1, name: str = "r") -> Request:
    body = engine_pb2.PdExpect(prompt=what, request_id=name, readers=readers)
    return Request(correlation_id=14, pd_expect=body)


def pd_wait(*, nth: int = 0) -> Request:
    body = engine_pb2.PdWait(transfer=symbol(Named.TRANSFER, nth), within_ms=100)
    return Request(correlation_id=15, pd_wait=body)


def pd_cancel(*, nth: int = 0) -> Request:
    body = engine_pb2.PdCancel(transfer=symbol(Named.TRANSFER, nth))
    return Request(correlation_id=16, pd_cancel=body)


def pd_layers(count: int, *, nth: int = 0) -> Request:
    body = engine_pb2.PdLayers(
        transfer=symbol(Named.TRANSFER, nth),
        lease=symbol(Named.WRITE_LEASE, nth),
        indices=range(count),
        digests=bytes(8 * count),
    )
    return Request(correlation_id=17, pd_layers=body)


def touch(what: engine_pb2.Prompt) -> Request:
    return Request(correlation_id=10, touch=engine_pb2.Touch(prompt=what))


def stat() -> Request:
    return Request(correlation_id=11, stat=engine_pb2.StatRequest())


def heartbeat(correlation_id: int = 12) -> Request:
    return Request(correlation_id=correlation_id, heartbeat=engine_pb2.Heartbeat())
