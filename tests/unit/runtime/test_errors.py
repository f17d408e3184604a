"""Errors tell whose deed it was, and foreign ones become ours at the border."""

from __future__ import annotations

import pytest

from penstock.runtime.errors import (
    ActorCrashed,
    CallerError,
    CapacityError,
    ConfigError,
    DeadlineExceeded,
    MailboxFull,
    PenstockError,
    StaleError,
    UnavailableError,
    mapped,
)


class StoreFailed(UnavailableError):
    pass


class ObjectMissing(StaleError):
    pass


def test_every_error_belongs_to_one_branch() -> None:
    branches = (CallerError, CapacityError, UnavailableError, StaleError, DeadlineExceeded)
    seen, todo = [], list(PenstockError.__subclasses__())
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        seen.append(kind)
    assert MailboxFull in seen
    for kind in seen:
        assert sum(issubclass(kind, branch) for branch in branches) == 1, kind


def test_a_foreign_error_is_translated_and_kept_as_the_cause() -> None:
    with (
        pytest.raises(StoreFailed, match="PermissionError: no entry") as caught,
        mapped({OSError: StoreFailed}),
    ):
        raise PermissionError("no entry")
    assert isinstance(caught.value.__cause__, PermissionError)


def test_the_most_derived_entry_wins_whatever_the_order() -> None:
    for table in (
        {OSError: StoreFailed, FileNotFoundError: ObjectMissing},
        {FileNotFoundError: ObjectMissing, OSError: StoreFailed},
    ):
        with pytest.raises(ObjectMissing), mapped(table):
            raise FileNotFoundError("gone")


def test_what_is_not_in_the_table_is_a_bug_and_passes() -> None:
    with pytest.raises(ZeroDivisionError), mapped({OSError: StoreFailed}):
        raise ZeroDivisionError


def test_our_own_errors_pass_even_through_a_table_that_names_their_base() -> None:
    with pytest.raises(ActorCrashed), mapped({Exception: StoreFailed}):
        raise ActorCrashed("l1 died")


def test_an_error_without_words_is_named_by_its_class() -> None:
    with pytest.raises(StoreFailed, match=r"^TimeoutError$"), mapped({OSError: StoreFailed}):
        raise TimeoutError


def test_a_config_error_names_the_path() -> None:
    error = ConfigError("l1.bytes", "must be positive")
    assert (error.path, str(error)) == ("l1.bytes", "l1.bytes: must be positive")
    assert str(ConfigError("", "no such file")) == "no such file"
