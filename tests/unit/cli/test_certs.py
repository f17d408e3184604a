"""`penstock certs`: what it makes is what nodes take, keys are their owner's, and nothing is lost by a second call."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from penstock.actors.cli import certs
from penstock.actors.cli.main import main
from penstock.runtime.certificates import Certificates
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import TlsFiles


def call(*words: object) -> int:
    return main(["certs", *map(str, words)])


def node_files(pki: Path, name: str) -> TlsFiles:
    return TlsFiles(
        pki / "nodes" / f"{name}.pem", pki / "nodes" / f"{name}.key", pki / "nodes-ca.pem"
    )


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    assert call("authority", directory) == 0
    return directory


def test_a_node_takes_what_is_made_for_it(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("node", pki, "a", "--host", "10.0.0.1", "--host", "a.example") == 0
    bundle = Certificates(node_files(pki, "a"), "a").current()
    assert bundle.names == {"a", "a.example"}
    told = capsys.readouterr().out
    assert "node_id: a" in told
    assert f"tls_key: {pki / 'nodes' / 'a.key'}" in told
    made = x509.load_pem_x509_certificate(bundle.certificate)
    life = made.not_valid_after_utc - made.not_valid_before_utc
    assert datetime.timedelta(days=90) <= life < datetime.timedelta(days=91)
    addresses = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in addresses.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


def test_keys_are_for_their_owner_alone(pki: Path) -> None:
    """D1. Seen to fail with the mode left to the umask."""
    call("node", pki, "a")
    call("engine", pki, "worker-1")
    keys = sorted(pki.rglob("*.key"))
    assert len(keys) == 4
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert pki.stat().st_mode & 0o077 == 0
    assert not list(pki.rglob(".*"))


def test_nothing_is_overwritten_unless_it_is_to_be_renewed(
    pki: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail with `check_absent` taken out: the second authority made all certificates of the first worthless."""
    call("node", pki, "a")
    before = {path: path.read_bytes() for path in pki.rglob("*.*")}
    capsys.readouterr()
    assert call("authority", pki) == 2
    assert call("node", pki, "a") == 2
    assert "is there already, and is not overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in pki.rglob("*.*")} == before
    certificates = Certificates(node_files(pki, "a"), "a", every_s=0)
    first = certificates.current()
    assert call("node", pki, "a", "--renew") == 0
    assert certificates.current().certificate != first.certificate
    assert certificates.refusals == 0


def test_an_engine_is_no_node(pki: Path) -> None:
    """D4: whatever its name. Seen to fail with one authority for both."""
    call("engine", pki, "a")
    mine = pki / "engines" / "a.pem", pki / "engines" / "a.key"
    with pytest.raises(ConfigError, match="is not accepted by"):
        Certificates(TlsFiles(*mine, pki / "nodes-ca.pem"), "a")
    with pytest.raises(ConfigError, match="is not accepted by"):  # nor does it answer as a server
        Certificates(TlsFiles(*mine, pki / "engines-ca.pem"), "a")


def test_what_cannot_be_made_is_refused_in_one_sentence(
    pki: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        (("node", pki, "Node_A"), "NAME must be 1 to 63 of a-z"),
        (("node", pki, "../a"), "NAME must be 1 to 63 of a-z"),
        (("node", tmp_path / "none", "a"), "`penstock certs authority` makes one"),
        (("node", pki, "a", "--days", "0"), "--days: must be 1 to 36500"),
        (("node", pki, "a", "--days", "5000"), "ask for fewer --days"),
    ]
    for words, said in cases:
        assert call(*words) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setattr(certs.importlib.util, "find_spec", lambda _: None)
    assert call("authority", tmp_path / "new") == 2
    assert "pip install 'penstock[certs]'" in capsys.readouterr().err
