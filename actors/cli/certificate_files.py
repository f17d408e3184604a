"""Making certificates for a cluster, and writing them so that nobody else reads the keys and nothing is lost.

Two authorities: one for nodes, one for engines. So no engine's certificate, whatever name it has, makes it a node.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from penstock.runtime.errors import ConfigError

EARLIER = datetime.timedelta(minutes=5)  # clocks of nodes differ
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of one certificate and its key."""

    certificate: Path
    key: Path


def pair_in(directory: Path, stem: str) -> Pair:
    return Pair(directory / f"{stem}.pem", directory / f"{stem}.key")


def check_absent(pair: Pair) -> None:
    """Raises ConfigError if one of its files is there."""
    for path in (pair.certificate, pair.key):
        if os.path.lexists(path):
            raise ConfigError(
                "",
                f"{path} is there already, and is not overwritten: take another directory or name",
            )


def make_authority(pair: Pair, name: str, days: int) -> None:
    """Raises ConfigError for files that are there, or cannot be written."""
    check_absent(pair)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, key, days)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
    )
    write_pair(pair, builder.sign(key, hashes.SHA256()), key)


def issue(
    pair: Pair, authority: Pair, *, names: Sequence[str], serves: bool, days: int
) -> x509.Certificate:
    """A certificate for `names`, the first of which is its own; over the files of `pair`, if they are there.

    `serves`: it may answer as a server, too. Raises ConfigError.
    """
    ca, ca_key = _read_authority(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    purposes += [ExtendedKeyUsageOID.SERVER_AUTH] if serves else []
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    builder = (
        _builder(subject, key, days)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(one) for one in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    if certificate.not_valid_after_utc > ca.not_valid_after_utc:
        raise ConfigError(
            "", f"{authority.certificate} ends before {days} days have passed: ask for fewer --days"
        )
    write_pair(pair, certificate, key)
    return certificate


def write_pair(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Whole or not at all, each; the key, which nobody else may read (0600), first. Raises ConfigError."""
    plain = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _replace(pair.key, plain, mode=0o600)
    _replace(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*granted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{one: one in granted for one in USAGES})


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _read_authority(pair: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    except OSError as unreadable:
        raise ConfigError(
            "",
            f"{unreadable.filename}: {unreadable.strerror}; `penstock certs authority` makes one",
        ) from None
    except (ValueError, TypeError) as refused:
        raise ConfigError(
            "", f"{pair.certificate} and {pair.key} are no authority: {refused}"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("", f"{pair.key} is no key that `penstock certs` makes")
    return certificate, key


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            os.write(written, content)
            os.fsync(written)
        finally:
            os.close(written)
        aside.replace(path)
    except OSError as refused:
        aside.unlink(missing_ok=True)
        raise ConfigError("", f"{path}: {refused.strerror}") from None
