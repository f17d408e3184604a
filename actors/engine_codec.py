"""Between the wire and our own words: what a proto message means, and what a refusal looks like on the wire.

Everything a peer may get wrong is refused here with the path of the field, before anything is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.actors.api.errors import (
    Denied,
    InstanceMismatch,
    InvalidField,
    RankTaken,
    TooLarge,
    UnknownSecret,
    VersionMismatch,
)
from penstock.actors.api.types import Shortfall
from penstock.protos import common_pb2, engine_pb2
from penstock.runtime.errors import (
    ActorCrashed,
    CallerError,
    CapacityError,
    DeadlineExceeded,
    PenstockError,
    StaleError,
    UnavailableError,
)

ID_BYTES = 16
KEY_BYTES = 32

# The first entry of which the error is an instance decides.
_CODES: tuple[tuple[type[PenstockError], common_pb2.ErrorCode.ValueType], ...] = (
    (TooLarge, common_pb2.ERROR_CODE_TOO_LARGE),
    (RankTaken, common_pb2.ERROR_CODE_RANK_TAKEN),
    (InstanceMismatch, common_pb2.ERROR_CODE_MISMATCH),
    (VersionMismatch, common_pb2.ERROR_CODE_VERSION),
    (UnknownSecret, common_pb2.ERROR_CODE_DENIED),
    (Denied, common_pb2.ERROR_CODE_DENIED),
    (ActorCrashed, common_pb2.ERROR_CODE_INTERNAL),
    (CallerError, common_pb2.ERROR_CODE_INVALID),
    (CapacityError, common_pb2.ERROR_CODE_EXHAUSTED),
    (StaleError, common_pb2.ERROR_CODE_STALE),
    (DeadlineExceeded, common_pb2.ERROR_CODE_DEADLINE),
    (UnavailableError, common_pb2.ERROR_CODE_UNAVAILABLE),
)


def refusal(error: PenstockError) -> common_pb2.Error:
    """The error as a reply."""
    code = next(
        (code for kind, code in _CODES if isinstance(error, kind)),
        common_pb2.ERROR_CODE_INTERNAL,
    )
    field = error.field if isinstance(error, InvalidField | TooLarge) else ""
    return common_pb2.Error(code=code, message=str(error), field=field)


def malformed(raw: bytes) -> engine_pb2.SessionReply:
    """The reply to bytes that are no SessionRequest."""
    message = f"{len(raw)} bytes that are no SessionRequest: check the protocol version"
    error = common_pb2.Error(code=common_pb2.ERROR_CODE_MALFORMED, message=message)
    return engine_pb2.SessionReply(correlation_id=correlation_of(raw), error=error)


def oversized(raw: bytes, *, bytes_max: int) -> engine_pb2.SessionReply:
    """The reply to a message that is not even parsed."""
    error = TooLarge("message", f"at most {bytes_max} bytes, not {len(raw)}: send a delta")
    return engine_pb2.SessionReply(correlation_id=correlation_of(raw), error=refusal(error))


def refused_unparsed(raw: bytes, error: PenstockError) -> engine_pb2.SessionReply:
    """The reply to a message that a look at its bytes refused."""
    return engine_pb2.SessionReply(correlation_id=correlation_of(raw), error=refusal(error))


def correlation_of(raw: bytes) -> int:
    """The correlation id of a message that cannot or must not be parsed; 0 when it does not come first.

    Field 1 as a varint is the byte 0x08 and then groups of seven bits, least significant first.
    """
    if not raw.startswith(b"\x08"):
        return 0
    value = 0
    for position, byte in enumerate(raw[1:11]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value if value < 1 << 64 else 0
    return 0


def check_id(field: str, value: bytes) -> bytes:
    """A lease or ticket id. Raises InvalidField."""
    if len(value) != ID_BYTES:
        raise InvalidField(field, f"an id has {ID_BYTES} bytes, not {len(value)}")
    return value


def check_between(field: str, value: int, low: int, high: int) -> int:
    """Refused, not clamped. Raises InvalidField."""
    if not low <= value <= high:
        raise InvalidField(field, f"must be {low} to {high}, not {value}")
    return value


SHORTFALLS = {one: engine_pb2.Shortfall.Value(f"SHORTFALL_{one.name}") for one in Shortfall}
"""As they are on the wire."""


def duration_s(field: str, milliseconds: int, *, default_ms: int, max_ms: int) -> float:
    """A duration on the wire, 0 being the default, in seconds. Raises InvalidField beyond the bound."""
    if milliseconds > max_ms:
        raise InvalidField(field, f"at most {max_ms} ms, not {milliseconds}")
    return (milliseconds or default_ms) / 1000


def check_indices(field: str, indices: Sequence[int], *, count_max: int) -> tuple[int, ...]:
    """Indices into a lease, each at most once. Raises InvalidField, TooLarge."""
    if len(indices) > count_max:
        raise TooLarge(field, f"at most {count_max} indices, not {len(indices)}")
    if len(set(indices)) != len(indices):
        raise InvalidField(field, "an index is there twice")
    return tuple(indices)
