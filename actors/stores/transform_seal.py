"""Encryption at rest: AES-256 in Galois/Counter Mode (NIST SP 800-38D).

Every object has a key of its own, derived from that of its tenant, and every time it is saved a nonce of 96 bits drawn
by the system: what one key seals stays far below the 2^32 messages that SP 800-38D, 8.3, allows to such nonces, and a
process that is forked or restored from a snapshot repeats none.

An object is one message: its digests, then its bytes. The digests stay where they are in the header, enciphered, as
those of plain bytes would tell what they are of. Authenticated with it is all that says which object this is, so that
none passes for another: swapped, renamed, resized or put under another tenant, it does not open.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from penstock.actors.stores.header import NO_SEAL, Header
from penstock.actors.stores.transform import Effort, Unreadable
from penstock.actors.stores.transform_keys import KeyRing

_DOMAIN = b"penstock object sealed 2"
_SEAL = struct.Struct("<I12s16s")  # number of the master key, nonce, tag
_BOUND = struct.Struct("<32s32s16sQQI16sI")  # what is authenticated, after the domain
_DIGEST = struct.Struct("<Q")
_NONCE_BYTES = 12
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

    def apply(
        self, header: Header, source: memoryview, room: memoryview, _: Effort
    ) -> tuple[Header, memoryview]:
        number, nonce = self._keys.newest, os.urandom(_NONCE_BYTES)
        key = self._keys.object_key(number, header.tenant, header.key)
        encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(_bound(header, number))
        digests = encryptor.update(_digests(header))
        sealed = _through(encryptor, source, room)
        encryptor.finalize()
        seal = _SEAL.pack(number, nonce, encryptor.tag)
        return _with_digests(replace(header, seal=seal), digests), sealed

    def undo(
        self, header: Header, stored: memoryview, room: memoryview, _: Effort
    ) -> tuple[Header, memoryview]:
        """What it writes to `room` means nothing when it raises."""
        if len(stored) > len(room):
            raise Unreadable(f"it has {len(stored)} bytes, more than the {len(room)} it should")
        number, nonce, tag = _SEAL.unpack(header.seal)
        key = self._keys.object_key(number, header.tenant, header.key)
        decryptor = Cipher(AES(key), GCM(nonce, tag)).decryptor()
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
