"""Who may call at a listening address for engines, each by a token of its own.

gateway:
  listen:
    - address: 10.0.0.1:7600
      tls_certificate: /etc/penstock/a.pem
      tls_key: /etc/penstock/a.key
      identities:
        - {name: team-a, token_file: /run/secrets/team-a, tenants: [salt-of-team-a]}
        - {name: operators, token_file: /run/secrets/operators, permissions: [admin]}
"""

from __future__ import annotations

from pathlib import Path

from penstock.runtime.config import Config
from penstock.runtime.identity import Permission

NAME_CHARS_MAX = 64
SALT_BYTES_MAX = 256  # as of a prompt


class IdentityConfig(Config, frozen=True):
    """Whoever has one token."""

    name: str  # for logs and refusals
    token_file: Path  # first line of the file
    permissions: tuple[Permission, ...] = (Permission.ENGINE,)
    # Salts that its prompts may have; "" is that of prompts without one. None: any, and keys of its own making.
    tenants: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= NAME_CHARS_MAX or not self.name.isprintable():
            raise ValueError(f"name must be 1 to {NAME_CHARS_MAX} printable characters")
        if not self.permissions:
            raise ValueError("permissions must name at least one of engine, admin")
        if Permission.PEER in self.permissions:
            raise ValueError(
                "permissions: nodes are known by certificates, not by tokens: see cluster"
            )
        if self.tenants is not None and not self.tenants:
            raise ValueError(
                'tenants must name the salts that prompts may have, "" for none; or be left out: any'
            )
        if any(len(salt.encode()) > SALT_BYTES_MAX for salt in self.tenants or ()):
            raise ValueError(f"tenants: a salt has at most {SALT_BYTES_MAX} bytes")

    def __repr__(self) -> str:
        return f"IdentityConfig(name={self.name!r}, permissions={self.permissions!r}, tenants=***)"
