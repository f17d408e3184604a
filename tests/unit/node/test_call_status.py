"""Which status a refusal becomes."""

from __future__ import annotations

import grpc
import pytest

from penstock.actors.api.errors import Denied, InvalidField
from penstock.actors.call_status import status_of
from penstock.runtime.errors import MailboxFull, PenstockError, StaleError


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Denied("no"), grpc.StatusCode.PERMISSION_DENIED),
        (InvalidField("keys", "no"), grpc.StatusCode.INVALID_ARGUMENT),
        (MailboxFull("no"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (StaleError("no"), grpc.StatusCode.FAILED_PRECONDITION),
        (PenstockError("no"), grpc.StatusCode.INTERNAL),
    ],
)
def test_a_refusal_becomes_the_status_of_its_kind(
    refusal: PenstockError, status: grpc.StatusCode
) -> None:
    """Seen to fail with Denied behind its branch: who may not was told that the request is malformed."""
    assert status_of(refusal) is status
