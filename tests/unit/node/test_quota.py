"""Tenants are numbered salts with a quota each."""

from __future__ import annotations

import pytest

from penstock.actors.api.errors import TooManyTenants
from penstock.actors.core.quota import Tenants


def test_salts_are_numbered_in_order_and_know_their_quota() -> None:
    tenants = Tenants(tenants_max=3, default_bytes_max=5, bytes_max={b"gold": 100})
    first = tenants.account(b"")
    gold = tenants.account(b"gold")
    assert (first.id, first.bytes_max, first.is_new) == (0, 5, True)
    assert (gold.id, gold.bytes_max, gold.is_new) == (1, 100, True)
    again = tenants.account(b"gold")
    assert (again.id, again.bytes_max, again.is_new) == (1, 100, False)


def test_tenants_are_bounded_and_those_known_go_on() -> None:
    tenants = Tenants(tenants_max=1, default_bytes_max=0, bytes_max={})
    tenants.account(b"a")
    with pytest.raises(TooManyTenants, match=r"l1\.tenants_max"):
        tenants.account(b"b")
    assert tenants.account(b"a").id == 0


def test_a_salt_is_not_kept() -> None:
    tenants = Tenants(tenants_max=1, default_bytes_max=0, bytes_max={b"secret salt": 1})
    tenants.account(b"secret salt")
    assert "secret salt" not in repr(vars(tenants))
