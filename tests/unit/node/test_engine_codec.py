"""Refusals on the wire, correlation ids of what cannot be parsed, and the checks of plain fields."""

from __future__ import annotations

import inspect

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.api import errors
from penstock.actors.api.errors import InvalidField, TooLarge
from penstock.actors.engine_codec import (
    check_between,
    check_id,
    check_indices,
    correlation_of,
    duration_s,
    malformed,
    refusal,
)
from penstock.protos import common_pb2 as wire
from penstock.protos.engine_pb2 import Heartbeat, SessionRequest, Touch
from penstock.runtime import errors as runtime_errors
from penstock.runtime.errors import PenstockError


@given(st.integers(0, 2**64 - 1))
def test_the_correlation_id_is_found_without_parsing(number: int) -> None:
    request = SessionRequest(correlation_id=number, deadline_ms=5, touch=Touch())
    assert correlation_of(request.SerializeToString()) == number


@given(st.binary(max_size=40))
def test_any_bytes_have_a_correlation_id_that_fits_a_reply(raw: bytes) -> None:
    """B2: whatever comes, there is a reply to it."""
    reply = malformed(raw)
    assert reply.error.code == wire.ERROR_CODE_MALFORMED
    assert reply.correlation_id == correlation_of(raw)
    reply.SerializeToString()


@given(st.binary(max_size=40))
def test_where_the_parser_finds_it_first_so_do_we(raw: bytes) -> None:
    message = SessionRequest(correlation_id=300, heartbeat=Heartbeat()).SerializeToString() + raw
    try:
        SessionRequest.FromString(message)
    except DecodeError:
        assert correlation_of(message) == 300
    else:
        assert correlation_of(message) == 300


@pytest.mark.parametrize(
    "raw", [b"", b"\x08", b"\x10\x01", b"\x08" + b"\xff" * 10, b"\x08" + b"\xff" * 9 + b"\x7f"]
)
def test_an_id_that_does_not_come_first_or_does_not_end_is_0(raw: bytes) -> None:
    assert correlation_of(raw) == 0


CODES = [
    (errors.InvalidField("a.b", "wrong"), wire.ERROR_CODE_INVALID, "a.b"),
    (errors.TooLarge("a.b", "large"), wire.ERROR_CODE_TOO_LARGE, "a.b"),
    (errors.MovesNoBytes("x"), wire.ERROR_CODE_INVALID, ""),
    (errors.RankTaken("x"), wire.ERROR_CODE_RANK_TAKEN, ""),
    (errors.InstanceMismatch("x"), wire.ERROR_CODE_MISMATCH, ""),
    (errors.VersionMismatch("x"), wire.ERROR_CODE_VERSION, ""),
    (errors.UnknownSecret("x"), wire.ERROR_CODE_DENIED, ""),
    (errors.TooManySessions("x"), wire.ERROR_CODE_EXHAUSTED, ""),
    (errors.QuarantineFull("x"), wire.ERROR_CODE_EXHAUSTED, ""),
    (errors.TicketOver("x"), wire.ERROR_CODE_STALE, ""),
    (errors.PromptForgotten("x"), wire.ERROR_CODE_STALE, ""),
    (errors.SessionOver("x"), wire.ERROR_CODE_STALE, ""),
    (errors.Draining("x"), wire.ERROR_CODE_UNAVAILABLE, ""),
    (runtime_errors.DeadlineExceeded("x"), wire.ERROR_CODE_DEADLINE, ""),
    (runtime_errors.ActorStopped("x"), wire.ERROR_CODE_UNAVAILABLE, ""),
    (runtime_errors.ActorCrashed("x"), wire.ERROR_CODE_INTERNAL, ""),
    (runtime_errors.MailboxFull("x"), wire.ERROR_CODE_EXHAUSTED, ""),
    (PenstockError("x"), wire.ERROR_CODE_INTERNAL, ""),
]


@pytest.mark.parametrize(("error", "code", "field"), CODES)
def test_every_kind_of_refusal_has_its_code(
    error: PenstockError, code: wire.ErrorCode.ValueType, field: str
) -> None:
    said = refusal(error)
    assert (said.code, said.message, said.field) == (code, str(error), field)


def test_no_error_of_the_node_is_called_a_bug() -> None:
    """An operating error that fell through to INTERNAL would blame the node for what it refuses."""
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, PenstockError):
            error = kind.__new__(kind)
            error.field = ""
            assert refusal(error).code != wire.ERROR_CODE_INTERNAL, kind


def test_plain_fields_are_refused_and_never_clamped() -> None:
    assert check_id("f", b"i" * 16) == b"i" * 16
    for wrong in (b"", b"i" * 15, b"i" * 17):
        with pytest.raises(InvalidField, match="16 bytes"):
            check_id("f", wrong)
    assert check_between("f", 128, 1, 128) == 128
    for number in (0, 129):
        with pytest.raises(InvalidField, match="1 to 128"):
            check_between("f", number, 1, 128)
    assert duration_s("f", 0, default_ms=1500, max_ms=2000) == 1.5
    assert duration_s("f", 2000, default_ms=1500, max_ms=2000) == 2.0
    with pytest.raises(InvalidField, match="at most 2000 ms"):
        duration_s("f", 2001, default_ms=1500, max_ms=2000)
    assert check_indices("f", [2, 0], count_max=2) == (2, 0)
    with pytest.raises(InvalidField, match="twice"):
        check_indices("f", [1, 1], count_max=2)
    with pytest.raises(TooLarge, match="at most 2"):
        check_indices("f", [0, 1, 2], count_max=2)
