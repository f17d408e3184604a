"""The TLS files of a node: proven before they are used, and read again when they change.

Whoever renews certificates writes new files over the old ones, or moves a link; nothing need be told. Connections that
are made later use them; those that are there stay. Files that cannot work are left alone, with the old ones in use, and
are told of once.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.runtime.errors import ConfigError
from penstock.runtime.log import Log
from penstock.runtime.security import TlsFiles
from penstock.runtime.watched_files import LOOK_EVERY_S, WatchedFiles

_FLIGHTS_MAX = 8  # of a handshake; TLS 1.3 takes three


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was read at one moment: PEM, and what the certificate says."""

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes
    names: frozenset[str]  # the certificate's DNS names
    expires: float  # seconds since 1970
    client: ssl.SSLContext = field(repr=False)  # of a handshake with a peer whose name is not known


class Certificates:
    """Certificate, key and authority of one node, as they are now. All methods may be called on any thread."""

    def __init__(
        self,
        files: TlsFiles,
        node_id: str,
        *,
        every_s: float = LOOK_EVERY_S,
        section: str = "cluster",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`section`: of the configuration, where the files are named. They are looked at `every_s`, at most.

        Raises ConfigError for files that cannot be read, do not go together, have expired, or name another node.
        """
        self._files = files
        self._node_id = node_id
        self._section = section
        log = Log("certificates")
        self._watched = WatchedFiles(self._paths(), self._read, log, every_s=every_s, clock=clock)
        if files.key.stat().st_mode & 0o004:
            log.warning_once("key_is_readable_by_all", path=files.key)

    def current(self) -> Bundle:
        """The newest that work. Reads files when they have changed, which takes some milliseconds."""
        return self._watched.current()

    @property
    def expires(self) -> float:
        """When what was read last does, in seconds since 1970."""
        return self._watched.last.expires

    @property
    def reloads(self) -> int:
        """Changes of the files that were taken up."""
        return self._watched.reloads

    @property
    def refusals(self) -> int:
        """Changes that could not be used."""
        return self._watched.refusals

    def _paths(self) -> tuple[Path, ...]:
        ca = () if self._files.ca is None else (self._files.ca,)
        return (self._files.certificate, self._files.key, *ca)

    def _read(self) -> Bundle:
        """Raises ConfigError."""
        if self._files.ca is None:
            raise ConfigError(f"{self._section}.tls_ca", "is needed to know peers by")
        try:
            shown, client = _proven(self._files.certificate, self._files.key, self._files.ca)
            read = [path.read_bytes() for path in self._paths()]
        except (OSError, ssl.SSLError, _NoPassword) as refused:
            raise ConfigError(
                f"{self._section}.{_culprit(refused)}", self._words(refused)
            ) from None
        names = frozenset(name for kind, name in shown.get("subjectAltName", ()) if kind == "DNS")
        if self._node_id not in names:
            raise ConfigError(
                f"{self._section}.tls_certificate",
                f"{self._files.certificate} is for {', '.join(sorted(names)) or 'no DNS name'}, not for"
                f" {self._node_id}: peers would refuse it. Issue one with the DNS name {self._node_id}",
            )
        certificate, key, ca = read
        expires = ssl.cert_time_to_seconds(shown["notAfter"])
        return Bundle(certificate, key, ca, names, expires, client)

    def _words(self, refused: Exception) -> str:
        if isinstance(refused, ssl.SSLCertVerificationError):
            return (
                f"{self._files.certificate} is not accepted by {self._files.ca}:"
                f" {refused.verify_message}"
            )
        if isinstance(refused, ssl.SSLError):
            paths = ", ".join(map(str, self._paths()))
            return f"{paths} do not go together, or are no PEM: {refused.reason or refused}"
        if isinstance(refused, OSError):
            missing = next((path for path in self._paths() if not path.exists()), None)
            return f"{refused.filename or missing or self._paths()[0]}: {refused.strerror}"
        return (
            f"{self._files.key} has a password: give a key without one, readable by the node alone"
        )


class _NoPassword(Exception):
    """The key is encrypted."""


def _culprit(refused: Exception) -> str:
    return "tls_key" if isinstance(refused, _NoPassword) else "tls_certificate"


def _proven(certificate: Path, key: Path, ca: Path) -> tuple[Mapping[str, Any], ssl.SSLContext]:
    """What the certificate says, after a handshake of it with itself, both ways verified; and the dialer's context.

    Raises OSError, ssl.SSLError, _NoPassword.
    """

    def refuse_password() -> str:
        raise _NoPassword

    ends = []
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate, key, password=refuse_password)
        context.load_verify_locations(ca)
        is_server = protocol is ssl.PROTOCOL_TLS_SERVER
        ways = (to_server, to_client) if is_server else (to_client, to_server)
        ends.append(context.wrap_bio(*ways, server_side=is_server))
    server, client = ends
    for _ in range(_FLIGHTS_MAX):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    shown = client.getpeercert()
    server.getpeercert()  # raises unless its side is done, too
    if shown is None:
        raise ssl.SSLError("no certificate was shown")
    client.context.set_alpn_protocols(["h2"])
    return shown, client.context
