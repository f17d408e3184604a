"""Encryption at rest: AES-256 in Galois/Counter Mode (NIST SP 800-38D).

An object is one message: its digests, then its bytes. The digests stay where they are in the header, enciphered, as
those of plain bytes would tell what they are of. Authenticated with it is all that says which object this is, so that
none passes for another: swapped, renamed, resized or put under another tenant, it does not open.
"""

from __future__ import annotations

import itertools
import os
import struct
from dataclasses import replace
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from penstock.actors.stores.header import NO_SEAL, Header
from penstock.actors.stores.transform import Unreadable
from penstock.actors.stores.transform_keys import KeyRing

_DOMAIN = b"penstock object sealed 1"
_SEAL = struct.Struct("<I12s16s")  # number of the master key, nonce, tag
_BOUND = struct.Struct("<32s32s16sQQI16sI")  # what is authenticated, after the domain
_NONCE = struct.Struct(">8sI")
_DIGEST = struct.Struct("<Q")
_LAST_BYTES = 16  # a block: where a cipher writes to needs room for almost one more than it fills


class _Running(Protocol):
    """What encryptors and decryptors have in common."""

    def update(self, data: memoryview | bytes) -> bytes: ...

    def update_into(self, data: memoryview, buf: memoryview) -> int: ...


class SealStep:
    name = b"aesgcm"
    is_required = True

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._nonces = _Nonces()

    def apply(
        self, header: Header, source: memoryview, room: memoryview
    ) -> tuple[Header, memoryview]:
        number, nonce = self._keys.newest, self._nonces.draw()
        encryptor = Cipher(
            AES(self._keys.tenant_key(number, header.tenant)), GCM(nonce)
        ).encryptor()
        encryptor.authenticate_additional_data(_bound(header, number))
        digests = encryptor.update(_digests(header))
        sealed = _through(encryptor, source, room)
        encryptor.finalize()
        seal = _SEAL.pack(number, nonce, encryptor.tag)
        return _with_digests(replace(header, seal=seal), digests), sealed

    def undo(
        self, header: Header, stored: memoryview, room: memoryview
    ) -> tuple[Header, memoryview]:
        """What it writes to `room` means nothing when it raises."""
        if len(stored) > len(room):
            raise Unreadable(f"it has {len(stored)} bytes, more than the {len(room)} it should")
        number, nonce, tag = _SEAL.unpack(header.seal)
        cipher = Cipher(AES(self._keys.tenant_key(number, header.tenant)), GCM(nonce, tag))
        decryptor = cipher.decryptor()
        decryptor.authenticate_additional_data(_bound(header, number))
        digests = decryptor.update(_digests(header))
        opened = _through(decryptor, stored, room)
        try:
            decryptor.finalize()
        except InvalidTag:
            raise Unreadable(
                f"it does not open with master key {number}: it is damaged, another object, or not of our making"
            ) from None
        return _with_digests(replace(header, seal=NO_SEAL), digests), opened


class _Nonces:
    """Never twice the same in a process, by counting (SP 800-38D, 8.2.1); two processes are told apart by 64 bits drawn
    at random, each time 2^32 are used up. Any thread.
    """

    def __init__(self) -> None:
        self._count = itertools.count()  # its next() is one step of the interpreter
        self._lives: tuple[int, bytes] = (0, os.urandom(8))

    def draw(self) -> bytes:
        life, count = divmod(next(self._count), 1 << 32)
        known, prefix = self._lives
        if life != known:
            prefix = os.urandom(8)  # of its own for every draw that comes before the next line
            self._lives = life, prefix
        return _NONCE.pack(prefix, count)


def _bound(header: Header, number: int) -> bytes:
    return _DOMAIN + _BOUND.pack(
        header.key,
        header.namespace,
        header.tenant,
        header.logical_bytes,
        header.stored_bytes,
        header.runs,
        header.transform,
        number,
    )


def _digests(header: Header) -> bytes:
    return _DIGEST.pack(header.digest) + header.run_digests


def _with_digests(header: Header, digests: bytes) -> Header:
    whole = _DIGEST.unpack_from(digests)[0]
    return replace(header, digest=whole, run_digests=digests[_DIGEST.size :])


def _through(cipher: _Running, source: memoryview, room: memoryview) -> memoryview:
    """All of `source`, through `cipher`, to the start of `room`."""
    size = len(source)
    body = max(size - _LAST_BYTES, 0)
    if body:
        cipher.update_into(source[:body], room[: body + _LAST_BYTES - 1])
    room[body:size] = cipher.update(source[body:])
    return room[:size]
