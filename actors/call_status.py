"""From a refusal to the status of its gRPC call: one table for engines, operators and peers."""

from __future__ import annotations

import grpc

from penstock.actors.api.errors import Denied
from penstock.runtime.errors import (
    CallerError,
    CapacityError,
    DeadlineExceeded,
    PenstockError,
    StaleError,
    UnavailableError,
)

_STATUS: tuple[tuple[type[PenstockError], grpc.StatusCode], ...] = (
    (Denied, grpc.StatusCode.PERMISSION_DENIED),  # before its branch
    (CallerError, grpc.StatusCode.INVALID_ARGUMENT),
    (CapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StaleError, grpc.StatusCode.FAILED_PRECONDITION),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
)


def status_of(refusal: PenstockError) -> grpc.StatusCode:
    """INTERNAL for one of no branch."""
    found = (status for kind, status in _STATUS if isinstance(refusal, kind))
    return next(found, grpc.StatusCode.INTERNAL)
