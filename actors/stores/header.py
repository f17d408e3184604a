"""The header of an object on a store: what it is, so that nothing else is ever taken for it.

    bytes   field
     8      magic
     2      version
     2      flags, 0
     4      bytes of this header, padding included
    32      object key
    32      digest of the namespace
    16      tenant: first half of the digest of its salt, zeros: none
     8      logical bytes: the object's own
     8      stored bytes: of the payload, after transforms and before padding
     4      runs
    16      names of the transforms, zeros: none
    32      seal of what is encrypted: id of the key 4, nonce 12, tag 16; zeros: it is not
     8      CRC-64/NVME of the object, over its logical bytes
     8 each CRC-64/NVME of each run
     8      CRC-64/NVME of all before
            zeros up to a whole block

Little-endian. What is encrypted has encrypted digests, too: see `transform_seal.py`. How long a
header is follows from the number of runs alone, so that a reader knows it before it reads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from penstock._native import crc64
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.stores.store import BLOCK_BYTES
from penstock.runtime.errors import UnavailableError

MAGIC = b"PENSTOCK"
VERSION = 1
TENANT_BYTES = 16
NAMESPACE_BYTES = 32
NO_TENANT = bytes(TENANT_BYTES)
TRANSFORM_BYTES = 16
SEAL_BYTES = 32
NO_SEAL = bytes(SEAL_BYTES)
RUNS_MAX = 1 << 20

_FIXED = struct.Struct(
    f"<8sHHI{KEY_BYTES}s{NAMESPACE_BYTES}s{TENANT_BYTES}sQQI{TRANSFORM_BYTES}s{SEAL_BYTES}sQ"
)
_VERSION = struct.Struct("<HH")  # and flags
_DIGEST = struct.Struct("<Q")
DIGEST_BYTES = _DIGEST.size
FIXED_BYTES = _FIXED.size  # of every header, before its run digests


class HeaderRefused(UnavailableError):
    """Theirs: what a store gave out is not the object that was asked for. The branches say why."""


class ForeignHeader(HeaderRefused):
    """There is no header of ours: another program's bytes, or none at all."""


class OtherVersion(HeaderRefused):
    """A header of ours, of a version or with flags that this one does not read."""


class DamagedHeader(HeaderRefused):
    """A header of ours that is not whole."""


class WrongObject(HeaderRefused):
    """A good header, of another object or of one that was made otherwise."""


@dataclass(frozen=True, slots=True)
class Header:
    key: bytes
    namespace: bytes
    tenant: bytes  # 16 bytes
    logical_bytes: int
    stored_bytes: int
    digest: int
    run_digests: bytes  # packed u64
    transform: bytes = b""  # at most 16 bytes, none of them zero at its end
    seal: bytes = NO_SEAL

    @property
    def runs(self) -> int:
        return len(self.run_digests) // _DIGEST.size


def whole_blocks(size_bytes: int) -> int:
    """`size_bytes` rounded up to blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@lru_cache(maxsize=256)
@lru_cache(maxsize=1024)
def header_bytes(runs: int) -> int:
    """How long the header of an object of so many runs is, padding included."""
    assert 0 <= runs <= RUNS_MAX, runs
    return whole_blocks(_FIXED.size + (runs + 1) * _DIGEST.size)


def encode_into(header: Header, target: memoryview) -> None:
    """Write `header` into all of `target`, which is `header_bytes(header.runs)` long."""
    assert len(target) == header_bytes(header.runs), (len(target), header.runs)
    assert len(header.key) == KEY_BYTES
    assert len(header.namespace) == NAMESPACE_BYTES
    assert len(header.tenant) == TENANT_BYTES
    assert len(header.transform) <= TRANSFORM_BYTES
    assert len(header.seal) == SEAL_BYTES
    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        0,
        len(target),
        header.key,
        header.namespace,
        header.tenant,
        header.logical_bytes,
        header.stored_bytes,
        header.runs,
        header.transform,
        header.seal,
        header.digest,
    )
    body = fixed + header.run_digests
    whole = body + _DIGEST.pack(crc64(body))
    target[: len(whole)] = whole
    target[len(whole) :] = bytes(len(target) - len(whole))


def encode(header: Header) -> bytearray:
    """As `encode_into`, into memory of its own."""
    made = bytearray(header_bytes(header.runs))
    encode_into(header, memoryview(made))
    return made


def decode(data: memoryview | bytes | bytearray) -> Header:
    """Read the header at the start of `data`. Raises ForeignHeader, OtherVersion, DamagedHeader,
    and WrongObject where `data` is shorter than it."""
    if len(data) < _FIXED.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise ForeignHeader("there is no Penstock object here")
    (
        _,
        version,
        flags,
        length,
        key,
        namespace,
        tenant,
        logical,
        stored,
        runs,
        transform,
        seal,
        digest,
    ) = _FIXED.unpack_from(data)
    if version != VERSION or flags != 0:
        if _is_ours_but_for_its_version(data, length, runs):
            raise DamagedHeader(f"version {version} and flags {flags:#x} are not what was written")
        raise OtherVersion(f"version {version}, flags {flags:#x}: only version {VERSION} is read")
    end = _FIXED.size + runs * _DIGEST.size
    if runs > RUNS_MAX or length != header_bytes(runs):
        raise DamagedHeader(f"{length} bytes for {runs} runs")
    if length > len(data):  # as may be asked for of any object: it may be whole
        raise WrongObject(f"it has {runs} runs and {length} bytes, {len(data)} of them were read")
    if crc64(data[:end]) != _DIGEST.unpack_from(data, end)[0]:
        raise DamagedHeader("its checksum is not that of its bytes")
    digests = bytes(data[_FIXED.size : end])
    name = transform.rstrip(b"\0")
    return Header(key, namespace, tenant, logical, stored, digest, digests, name, seal)


def _is_ours_but_for_its_version(
    data: memoryview | bytes | bytearray, length: int, runs: int
) -> bool:
    """Whether the checksum is good with our version in its place: then it was written by this one, and damaged."""
    end = _FIXED.size + runs * _DIGEST.size
    if runs > RUNS_MAX or length != header_bytes(runs) or length > len(data):
        return False
    written = bytearray(data[:end])
    _VERSION.pack_into(written, len(MAGIC), VERSION, 0)
    return bool(crc64(written) == _DIGEST.unpack_from(data, end)[0])


def tenant_of(block: bytes) -> bytes | None:
    """Whose the object is that begins with this block, as far as it says; None: there is none of ours. The rest of the
    header, and so its checksum, may not be in the block."""
    if len(block) < _FIXED.size or not block.startswith(MAGIC):
        return None
    _, version, _, _, _, _, tenant, *_ = _FIXED.unpack_from(block)
    return tenant if version == VERSION else None


def expect(
    header: Header, *, key: bytes, namespace: bytes, logical_bytes: int, runs: int, transform: bytes
) -> None:
    """Raises WrongObject unless `header` is that of the object asked for."""
    found = (header.key, header.namespace, header.logical_bytes, header.runs, header.transform)
    wanted = (key, namespace, logical_bytes, runs, transform)
    if found == wanted:
        return
    names = ("key", "namespace", "logical_bytes", "runs", "transform")
    for name, is_there, asked in zip(names, found, wanted, strict=True):
        if is_there != asked:
            raise WrongObject(f"{name} is {_said(is_there)}, not {_said(asked)}")


def _said(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
