"""Tenants are numbered salts with a quota each."""

from __future__ import annotations

import hashlib

import pytest

from penstock.actors.api.errors import TooManyTenants
from penstock.actors.api.types import TenantId
from penstock.actors.core.quota import LOOKED_AT_MAX, Tenants


def nothing(_: TenantId) -> int:
    return 0


def test_salts_are_numbered_in_order_and_know_their_quota() -> None:
    tenants = Tenants(
        tenants_max=3, default_bytes_max=5, bytes_max={b"gold": 100}, bytes_of=nothing
    )
    first = tenants.account(b"")
    gold = tenants.account(b"gold")
    assert (first.id, first.bytes_max, first.is_new) == (0, 5, True)
    assert (gold.id, gold.bytes_max, gold.is_new) == (1, 100, True)
    again = tenants.account(b"gold")
    assert (again.id, again.bytes_max, again.is_new) == (1, 100, False)


def test_tenants_are_bounded_and_those_known_go_on() -> None:
    tenants = Tenants(tenants_max=1, default_bytes_max=0, bytes_max={}, bytes_of=lambda _: 1)
    tenants.account(b"a")
    with pytest.raises(TooManyTenants, match=r"l1\.tenants_max"):
        tenants.account(b"b")
    assert tenants.account(b"a").id == 0


def test_a_salt_is_not_kept() -> None:
    tenants = Tenants(
        tenants_max=1, default_bytes_max=0, bytes_max={b"secret salt": 1}, bytes_of=nothing
    )
    tenants.account(b"secret salt")
    assert "secret salt" not in repr(vars(tenants))


def test_the_number_of_a_tenant_without_bytes_serves_another_under_its_own_quota() -> None:
    held = {0: 1, 1: 0, 2: 1}
    tenants = Tenants(
        tenants_max=3, default_bytes_max=5, bytes_max={b"gold": 100}, bytes_of=lambda one: held[one]
    )
    for salt in (b"a", b"b", b"c"):
        tenants.account(salt)
    gold = tenants.account(b"gold")
    assert (gold.id, gold.bytes_max, gold.is_new) == (1, 100, True)
    held[1] = 1
    assert tenants.account(b"a").id == 0
    with pytest.raises(TooManyTenants, match="hold objects"):
        tenants.account(b"b")
    held[2] = 0
    assert (tenants.account(b"b").id, tenants.account(b"b").is_new) == (2, False)
    held[2] = 1
    with pytest.raises(TooManyTenants):
        tenants.account(b"c")


def test_a_step_looks_at_a_bounded_number_of_tenants_and_the_next_goes_on_from_there() -> None:
    """DESIGN 9: one Reserve of a new tenant does not hold the loop up, however many there are."""
    asked: list[int] = []

    def last_is_idle(tenant: TenantId) -> int:
        asked.append(tenant)
        return int(tenant != 2 * LOOKED_AT_MAX - 1)

    many = 2 * LOOKED_AT_MAX
    tenants = Tenants(tenants_max=many, default_bytes_max=0, bytes_max={}, bytes_of=last_is_idle)
    for number in range(many):
        tenants.account(b"%d" % number)
    with pytest.raises(TooManyTenants):
        tenants.account(b"new")
    assert len(asked) == LOOKED_AT_MAX
    assert tenants.account(b"new").id == many - 1


def test_weights_and_digests_are_of_the_salt() -> None:
    tenants = Tenants(
        tenants_max=3, default_bytes_max=0, bytes_max={}, bytes_of=nothing, weights={b"gold": 5}
    )
    empty, gold = tenants.account(b""), tenants.account(b"gold")
    assert (empty.weight, gold.weight) == (1, 5)
    assert tenants.digest(empty.id) == b""
    assert tenants.digest(gold.id) == hashlib.sha256(b"gold").digest()


def test_a_quota_that_is_set_later_is_that_of_the_account() -> None:
    tenants = Tenants(
        tenants_max=2, default_bytes_max=5, bytes_max={b"gold": 100}, bytes_of=nothing
    )
    gold = tenants.account(b"gold")
    tenants.set_bound(b"gold", 7)
    assert (tenants.account(b"gold").bytes_max, tenants.account(b"gold").id) == (7, gold.id)
    tenants.set_bound(b"", 9)
    assert tenants.account(b"").bytes_max == 9
    with pytest.raises(TooManyTenants, match=r"l1\.tenants_max"):
        tenants.set_bound(b"another", 1)
    tenants.set_bound(b"gold", 0)
    assert tenants.account(b"gold").bytes_max == 0
