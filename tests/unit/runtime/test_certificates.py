"""The TLS files of a node: what cannot work is refused at start, and never put in the place of what works."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.peer_pki import LONG_AGO, Authority, replace

from penstock.runtime.certificates import Certificates
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import TlsFiles


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def test_what_is_read_says_whom_it_is_for(authority: Authority) -> None:
    bundle = Certificates(authority.issue("a", "a.example"), "a").current()
    assert bundle.names == {"a", "a.example"}
    assert bundle.ca == authority.ca.read_bytes()
    assert b"PRIVATE" not in repr(bundle).encode()


def test_files_that_cannot_work_are_refused_at_start(authority: Authority, tmp_path: Path) -> None:
    """D4, E4: the words name the key and say what to do.

    Seen to fail with the handshake in `_proven` taken out: another authority's certificate was taken.
    """
    good, other = authority.issue("a"), Authority(tmp_path / "other").issue("a")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not PEM")
    expired = authority.issue("a", file="old", not_after=LONG_AGO)
    cases = [
        (good, "b", "is for a, not for b"),
        (expired, "a", "certificate has expired"),
        (TlsFiles(other.certificate, other.key, good.ca), "a", "is not accepted by"),
        (TlsFiles(good.certificate, other.key, good.ca), "a", "do not go together"),
        (TlsFiles(garbage, good.key, good.ca), "a", "do not go together, or are no PEM"),
        (TlsFiles(good.certificate, tmp_path / "none.key", good.ca), "a", "none.key: No such file"),
        (TlsFiles(good.certificate, good.key, None), "a", "tls_ca: is needed"),
    ]
    for files, node_id, said in cases:
        with pytest.raises(ConfigError, match=said) as refused:
            Certificates(files, node_id)
        assert refused.value.path.startswith("cluster.tls_")


def test_a_change_is_read_at_the_next_look_and_a_bad_one_is_told_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen to fail with the bundle replaced before it was proven."""
    clock = Clock()
    files = authority.issue("a")
    certificates = Certificates(files, "a", every_s=1, clock=clock)
    first = certificates.current()
    key = files.key.read_bytes()
    authority.issue("a")
    assert certificates.current() is first  # not looked at yet
    clock.now = 1
    second = certificates.current()
    assert second.certificate != first.certificate
    assert (certificates.reloads, certificates.refusals) == (1, 0)

    replace(files.key, key)  # half of a rotation, or the wrong file
    with caplog.at_level(logging.WARNING):
        for now in (2, 3, 4):
            clock.now = now
            assert certificates.current() is second
    assert certificates.refusals == 1
    warned = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage().split()[0] for one in warned] == ["files_not_used"]

    files.certificate.unlink()
    clock.now = 5
    assert certificates.current() is second
    authority.issue("a")
    clock.now = 6
    assert certificates.current() not in (first, second)


def test_a_key_with_a_password_is_refused_without_a_question(
    authority: Authority, tmp_path: Path
) -> None:
    """Seen to fail: OpenSSL asked for it at the terminal, and the node hung."""
    from cryptography.hazmat.primitives import serialization as pem

    files = authority.issue("a")
    key = pem.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    sealed = pem.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, sealed))
    with pytest.raises(ConfigError, match="has a password") as refused:
        Certificates(TlsFiles(files.certificate, locked, files.ca), "a")
    assert refused.value.path == "cluster.tls_key"
