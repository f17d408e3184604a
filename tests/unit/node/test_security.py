"""Secrets stay secret, addresses are read strictly, nothing is served beyond the machine in the clear."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.runtime.errors import ConfigError
from penstock.runtime.security import (
    Secret,
    TcpAddress,
    TlsFiles,
    UnixAddress,
    check_exposure,
    parse_address,
)


@dataclass(frozen=True)
class Holder:
    token: Secret


def test_a_secret_never_shows_itself() -> None:
    """D1: not in any text made of it, of what holds it, or of an error that carries it."""
    secret = Secret("hunter2")
    holder = Holder(secret)
    shown = [
        repr(secret),
        str(secret),
        f"{secret} {secret!r} {secret:}",
        repr(holder),
        "{}".format(secret),  # noqa: UP032 - another way into text
    ]
    try:
        raise ValueError(holder, secret)
    except ValueError as error:
        shown.append("".join(traceback.format_exception(error)))
    assert not [text for text in shown if "hunter2" in text]
    assert secret.reveal() == "hunter2"


def test_secrets_are_compared_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("é").matches("é")
    assert not Secret("é").matches("e")
    assert not Secret("a").matches("")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/p.sock", UnixAddress(Path("/run/p.sock"))),
        ("unix:/run/p.sock", UnixAddress(Path("/run/p.sock"))),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("tcp://node-7:7000", TcpAddress("node-7", 7000)),
        ("[::1]:7000", TcpAddress("::1", 7000)),
    ],
)
def test_addresses_are_read(text: str, address: UnixAddress | TcpAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "unix://", "unix:///", "host", ":7", "h:", "h:-1", "h:65536", "h:7x", "h:7:",
     "unix:///" + "x" * 101],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        parse_address(text)


def test_a_target_is_what_grpc_takes() -> None:
    assert parse_address("[::1]:7").target() == "[::1]:7"
    assert parse_address("localhost:7").target() == "localhost:7"
    assert parse_address("unix:///a/b").target() == "unix:/a/b"


LOCAL = ["unix:///run/p.sock", "127.0.0.1:7", "127.8.9.1:7", "[::1]:7", "localhost:7"]
EXPOSED = ["0.0.0.0:7", "[::]:7", "10.0.0.1:7", "node-7:7", "localhost.example.org:7"]
TLS = TlsFiles(Path("cert.pem"), Path("key.pem"))


@pytest.mark.parametrize("text", LOCAL)
def test_this_machine_is_served_in_the_clear(text: str) -> None:
    check_exposure(parse_address(text), tls=None, tokens=None)


@pytest.mark.parametrize("text", EXPOSED)
@pytest.mark.parametrize(
    ("tls", "token", "missing"),
    [
        (None, None, "tls_certificate with tls_key and token_file or identities"),
        (TLS, None, "token_file or identities"),
        (None, Secret("t"), "tls_certificate with tls_key"),
    ],
)
def test_beyond_it_tls_and_a_token_are_needed(
    text: str, tls: TlsFiles | None, token: Secret | None, missing: str
) -> None:
    """D4: nothing listens beyond this machine in the clear, or for anybody.

    Seen to fail with a name other than "localhost" taken for loopback.
    """
    address = parse_address(text)
    with pytest.raises(ConfigError, match=f"needs {missing}: set"):
        check_exposure(address, tls=tls, tokens=token)
    check_exposure(address, tls=TLS, tokens=Secret("t"))
