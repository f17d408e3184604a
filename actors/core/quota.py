"""Tenants and what they may hold. A tenant is a cache salt; the table knows it by a small number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from penstock.actors.api.errors import TooManyTenants
from penstock.actors.api.types import TenantId

NO_WEIGHTS: Mapping[bytes, int] = MappingProxyType({})
LOOKED_AT_MAX = 1024  # accounts asked about in one step when all numbers are taken


@dataclass(frozen=True, slots=True)
class Account:
    id: TenantId
    bytes_max: int  # 0: no quota
    weight: int  # of its share
    is_new: bool  # the table has not been told its quota yet


class Tenants:
    """Numbers salts in order of first use. Salts are remembered by digest: they may be secrets of the tenants.

    When all numbers are taken, that of a tenant of whom nothing is in the table any more serves the next one.
    """

    def __init__(
        self,
        *,
        tenants_max: int,
        default_bytes_max: int,
        bytes_max: Mapping[bytes, int],
        bytes_of: Callable[[TenantId], int],
        weights: Mapping[bytes, int] = NO_WEIGHTS,
    ) -> None:
        """`bytes_of`: what the table holds of a tenant now, in arena bytes. `weights`: by salt; 1 of all others."""
        self._tenants_max = tenants_max
        self._default_bytes_max = default_bytes_max
        self._bytes_max = {_digest(salt): bound for salt, bound in bytes_max.items()}
        self._weights = {_digest(salt): weight for salt, weight in weights.items()}
        self._bytes_of = bytes_of
        # Longest unused first, as far as it matters; len <= tenants_max.
        self._numbers: dict[bytes, TenantId] = {}
        self._digests: dict[TenantId, bytes] = {}  # the same, the other way

    def account(self, salt: bytes) -> Account:
        """The account of `salt`, opened at first use. Raises TooManyTenants."""
        digest = _digest(salt) if salt else _NO_SALT
        bytes_max = self._bytes_max.get(digest, self._default_bytes_max)
        weight = self._weights.get(digest, 1)
        known = self._numbers.get(digest)
        if known is not None:
            return Account(known, bytes_max, weight, is_new=False)
        number = self._free_number()
        self._numbers[digest] = number
        self._digests[number] = digest
        return Account(number, bytes_max, weight, is_new=True)

    def set_bound(self, salt: bytes, bytes_max: int) -> None:
        """Another quota than it was made with; 0: none. Whoever sets it tells the table. Raises TooManyTenants."""
        digest = _digest(salt)
        if digest not in self._bytes_max and len(self._bytes_max) >= self._tenants_max:
            raise TooManyTenants(
                f"{len(self._bytes_max)} tenants have a quota of their own, the bound is l1.tenants_max"
            )
        self._bytes_max[digest] = bytes_max

    def find(self, salt: bytes) -> TenantId | None:
        """The number of a tenant that has an account."""
        return self._numbers.get(_digest(salt))

    def digest(self, number: int) -> bytes:
        """What stores call the tenant of this number, of whom something is in the table; empty: the empty salt."""
        digest = self._digests[TenantId(number)]
        return b"" if digest == _NO_SALT else digest

    @staticmethod
    def digest_of(salt: bytes) -> bytes:
        """The same, by its salt."""
        return _digest(salt) if salt else b""

    def _free_number(self) -> TenantId:
        if len(self._numbers) < self._tenants_max:
            return TenantId(len(self._numbers))
        for digest, number in [*islice(self._numbers.items(), LOOKED_AT_MAX)]:
            del self._numbers[digest]
            if self._bytes_of(number) == 0:
                return number
            self._numbers[digest] = number  # behind all others: the next step looks further
        raise TooManyTenants(
            f"{self._tenants_max} tenants hold objects in L1, the bound is l1.tenants_max: raise"
            " it, or write again when some of them were evicted"
        )


def _digest(salt: bytes) -> bytes:
    return hashlib.sha256(salt).digest()


_NO_SALT = _digest(b"")
