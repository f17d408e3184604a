"""How a node logs in to Valkey: what the configuration, its files and the environment say."""

from __future__ import annotations

import ssl

from penstock.actors.stores.store import StoreRefused
from penstock.actors.stores.valkey_config import ValkeyConfig
from penstock.actors.stores.valkey_node import Login
from penstock.runtime.config import environment_value
from penstock.runtime.security import Secret


def read_login(config: ValkeyConfig) -> Login:
    """Reads files. Raises StoreRefused."""
    key = f"stores.{config.name}"
    password: str | None = None
    if config.password_file is not None:
        try:
            password = config.password_file.read_text().partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is no text"
            raise StoreRefused(f"{key}.password_file", f"cannot be read: {said}") from None
        if not password:
            raise StoreRefused(f"{key}.password_file", "its first line is empty")
    elif config.password_env:
        password = environment_value(config.password_env) or None
    if config.user and password is None:
        problem = "has no password: give password_file, or set the variable password_env"
        raise StoreRefused(f"{key}.user", problem)
    return Login(
        user=config.user,
        password=None if password is None else Secret(password),
        database=config.database,
        tls=_tls(config, key) if config.is_tls else None,
        connect_s=config.connect_within,
        stall_s=config.stall_within,
        connections_max=config.connections_max,
        allow_clear=config.allow_clear,
    )


def _tls(config: ValkeyConfig, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_certificate is not None:
            context.load_cert_chain(config.tls_certificate, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        said = error.strerror or type(error).__name__
        raise StoreRefused(f"{key}.tls_ca", f"the tls_ files cannot be used: {said}") from None
    return context
