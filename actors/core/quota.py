"""Tenants and what they may hold. A tenant is a cache salt; the table knows it by a small number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.actors.api.errors import TooManyTenants
from penstock.actors.api.types import TenantId


@dataclass(frozen=True, slots=True)
class Account:
    id: TenantId
    bytes_max: int  # 0: no quota
    is_new: bool  # the table has not been told its quota yet


class Tenants:
    """Numbers salts in order of first use. Salts are remembered by digest: they may be secrets of the tenants."""

    def __init__(
        self, *, tenants_max: int, default_bytes_max: int, bytes_max: Mapping[bytes, int]
    ) -> None:
        self._tenants_max = tenants_max
        self._default_bytes_max = default_bytes_max
        self._bytes_max = {_digest(salt): bound for salt, bound in bytes_max.items()}
        self._numbers: dict[bytes, TenantId] = {}  # len <= tenants_max

    def account(self, salt: bytes) -> Account:
        """The account of `salt`, opened at first use. Raises TooManyTenants."""
        digest = _digest(salt)
        bytes_max = self._bytes_max.get(digest, self._default_bytes_max)
        known = self._numbers.get(digest)
        if known is not None:
            return Account(known, bytes_max, is_new=False)
        if len(self._numbers) >= self._tenants_max:
            raise TooManyTenants(
                f"{self._tenants_max} tenants have written since the node started, the bound is"
                " l1.tenants_max: raise it"
            )
        number = self._numbers[digest] = TenantId(len(self._numbers))
        return Account(number, bytes_max, is_new=True)


def _digest(salt: bytes) -> bytes:
    return hashlib.sha256(salt).digest()
