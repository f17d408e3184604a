"""What a sender tells of digests, packed as `pd_wire.Data` has it.

Columns, for there are many: told again after a call was lost, all of a push are packed in one step."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from penstock.actors.api.pd_wire import (
    DIGEST_RECORD,
    DIGESTS_MAX,
    Data,
    TransferId,
    piece_number,
)
from penstock.actors.core.pd_session import RUN_DIGEST, Effect, ObjectDigests, Say


def told_objects(transfer: TransferId, objects: Sequence[ObjectDigests]) -> list[Effect]:
    """An object's own digest comes last: then the receiver knows them all."""
    return _words(transfer, b"".join([_records(one) for one in objects]))


def told_runs(transfer: TransferId, numbers: Sequence[int], digests: Sequence[int]) -> list[Effect]:
    """Of runs of objects whose own digests are not known yet."""
    return _words(transfer, _packed(numbers, array("Q", digests)))


def _words(transfer: TransferId, records: bytes) -> list[Effect]:
    most = DIGESTS_MAX * DIGEST_RECORD.size
    return [
        Say(Data(transfer, records[start : start + most])) for start in range(0, len(records), most)
    ]


def _records(one: ObjectDigests) -> bytes:
    runs = len(one.runs) // RUN_DIGEST.size
    first = piece_number(one.place, 0)
    digests = array("Q", one.runs)
    if sys.byteorder == "big":
        digests.byteswap()
    digests.append(one.digest)
    return _packed([*range(first, first + runs), piece_number(one.place)], digests)


def _packed(numbers: Sequence[int], digests: array[int]) -> bytes:
    words = array("Q", bytes(len(numbers) * DIGEST_RECORD.size))
    words[0::2] = array("Q", numbers)
    words[1::2] = digests
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
