"""How s3 stores are configured, where their credentials come from, and what is refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from penstock.actors.stores import s3_client
from penstock.actors.stores.s3_client import FromProfile, open_client, trouble_of
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.s3_options import OPEN
from penstock.actors.stores.store import StoreRefused
from penstock.runtime.units import GIB, MIB, ByteSize, Seconds

SECRET = "wJalrXUtnFEMI-not-to-be-seen"


def configured(**given: Any) -> S3Config:
    return S3Config(**{"name": "bucket", "url": "s3://bucket/kv"} | given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"url": "ftp://bucket"}, "must begin with one of"),
        ({"url": "s3://"}, "must name a bucket"),
        ({"url": f"s3://key:{SECRET}@bucket"}, "no user, password"),
        ({"url": f"az://container?sig={SECRET}"}, "no user, password"),
        ({"capacity": ByteSize(GIB)}, "capacity: others write"),
        ({"part_bytes": ByteSize(MIB)}, "5 to 512 MiB"),
        ({"endpoint": "minio:9000"}, "https://host:port"),
        ({"endpoint": "http://minio:9000"}, "in the clear"),
        ({"options": {"secret_access_key": SECRET}}, "options.secret_access_key is a secret"),
        ({"options": {"aws_session_token": SECRET}}, "options.aws_session_token is a secret"),
        ({"options": {"AZURE_STORAGE_SAS_KEY": SECRET}}, "is a secret"),
        ({"options": {"regoin": "eu-central-1"}}, "options.regoin is not known"),
        ({"options": {"AWS_ENDPOINT_URL": "http://x"}}, "has a key of its own: write endpoint"),
        ({"options": {"aws_default_region": "x"}}, "has a key of its own: write region"),
        ({"options": {"aws_allow_http": "true"}}, "has a key of its own: write allow_http"),
        ({"options": {"timeout": "1s"}}, "has a key of its own: write request_within"),
        ({"options": {"proxy_url": "http://x"}}, "options.proxy_url is not known"),
        ({"options": {"aws_s3_express": "1", "s3_express": "1"}}, "is given twice"),
        (
            {"secret_files": {"access_key_id": Path("/x"), "aws_access_key_id": Path("/y")}},
            "is given twice",
        ),
        ({"secret_files": {"role_arn": Path("/x")}}, "secret_files.role_arn is not known"),
        ({"endpoint": f"https://:{SECRET}@minio:9000"}, "https://host:port"),
        (
            {"options": {"region": "a"}, "region": "b"},
            "options.region has a key of its own: write region",
        ),
        (
            {"url": "az://container", "credentials_file": Path("/x")},
            "credentials_file is for gs://, s3://, s3a://, not for az://",
        ),
        ({"url": "gs://bucket", "region": "eu"}, "region is for s3://, s3a://, not for gs://"),
        ({"url": "gs://bucket", "profile": "prod"}, "profile is for s3://"),
        ({"profile": "prod"}, "profile is of no effect without credentials_file"),
        ({"allow_http": True}, "allow_http is of no effect without endpoint"),
        ({"url": "file:///x", "region": "eu"}, "region is for s3://"),
        ({"url": "file:///x", "endpoint": f"https://{SECRET}"}, "endpoint is for .*not for file"),
        ({"url": "memory:///", "tls_ca": Path("/x")}, "tls_ca is for .*not for memory"),
        (
            {"url": "file:///x", "secret_files": {"access_key_id": Path("/x")}},
            "secret_files is for",
        ),
        ({"url": "file:///x", "options": {"role_arn": SECRET}}, "options is for .*not for file"),
        ({"url": "memory:///", "request_within": Seconds(1)}, "request_within is for"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], problem: str) -> None:
    """D1: and what may be a secret is not repeated."""
    with pytest.raises(ValueError, match=problem) as refused:
        configured(**given)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"endpoint": "http://127.0.0.1:9000"},
        {"endpoint": "http://[::1]:9000"},
        {"endpoint": "http://minio:9000", "allow_http": True},
        {"endpoint": "https://minio:9000"},
        {"options": {"sse_kms_key_id": "arn:1", "server_side_encryption": "aws:kms"}},
        {"url": "gs://bucket"},
        {"url": "gs://bucket", "endpoint": "https://gcs:9000", "credentials_file": Path("/x")},
        {"credentials_file": Path("/x"), "profile": "prod"},
        {"url": "az://container/kv"},
        {"url": "file:///mnt/kv"},
        {"url": "memory:///"},
    ],
)
def test_what_can_be_is_taken(given: dict[str, Any]) -> None:
    assert repr(configured(**given)).startswith("S3Config(name='bucket', url=")


def profiles(directory: Path, text: str) -> FromProfile:
    path = directory / "credentials"
    path.write_text(text)
    return FromProfile(path, "kv", "stores.bucket")


def test_a_profile_is_read_anew_each_time(tmp_path: Path) -> None:
    """Keys that were rotated are taken without a restart."""
    key = "[kv]\naws_access_key_id = {}\naws_secret_access_key = b%c\naws_session_token = t\n"
    provider = profiles(tmp_path, key.format("first"))
    assert provider()["access_key_id"] == "first"
    profiles(tmp_path, key.format("second"))
    given = provider()
    assert (given["access_key_id"], given["secret_access_key"]) == ("second", "b%c")
    assert given.get("token") == "t"


def test_what_was_read_is_kept_for_some_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for longer, when it cannot be read just then."""
    now = [0.0]
    monkeypatch.setattr(s3_client.time, "monotonic", lambda: now[0])
    key = "[kv]\naws_access_key_id = {}\naws_secret_access_key = b\n"
    kept = s3_client.Kept(profiles(tmp_path, key.format("first")))
    profiles(tmp_path, key.format("second"))
    now[0] = s3_client.KEPT_S - 1
    assert kept()["access_key_id"] == "first"
    now[0] = s3_client.KEPT_S
    assert kept()["access_key_id"] == "second"
    profiles(tmp_path, "nothing of use")
    now[0] = 2 * s3_client.KEPT_S
    assert kept()["access_key_id"] == "second"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{SECRET}\n", "is not written as"),
        (f"[other]\naws_secret_access_key = {SECRET}\n", "has no profile kv"),
        (f"[kv]\naws_secret_access_key = {SECRET}\n", "has no aws_access_key_id"),
    ],
)
def test_a_bad_profile_is_refused_without_being_shown(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(StoreRefused, match=problem) as refused:
        profiles(tmp_path, text)()
    assert SECRET not in str(refused.value)


def test_files_of_secrets_must_be_there_and_complete(tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="pip install penstock[s3]")
    one = tmp_path / "secret"
    files = {"secret_access_key": one}
    with pytest.raises(StoreRefused, match="are given together"):
        open_client(configured(secret_files=files))
    with pytest.raises(StoreRefused, match="access_key_id: cannot be read"):
        open_client(configured(secret_files={"access_key_id": one, **files}))
    one.write_text(" \n")
    with pytest.raises(StoreRefused, match="is empty"):
        open_client(configured(secret_files={"access_key_id": one, **files}))


@pytest.mark.parametrize(
    "given",
    [{"url": "s3://bucket", "region": "r"}, {"url": "gs://bucket"}, {"url": "az://container"}],
)
def test_no_option_ends_a_thread_of_the_library(given: dict[str, Any]) -> None:
    """What is of another cloud is refused, all else is taken."""
    pytest.importorskip("obstore", reason="pip install penstock[s3]")
    made = 0
    for option in sorted(OPEN):
        for value in ("true", "x"):
            with suppress(StoreRefused):
                open_client(configured(**given, options={option: value}))
                made += 1
    assert made


@pytest.mark.parametrize(
    "config",
    [
        {"url": "gs://bucket", "secret_files": ["service_account_key"]},
        {
            "url": "gs://bucket",
            "secret_files": ["service_account_key"],
            "endpoint": "https://gcs:9000",
        },
        {
            "url": "az://container",
            "secret_files": ["account_key"],
            "options": {"account_name": "a"},
        },
        {"url": "memory:///"},
    ],
)
def test_clients_of_other_clouds_are_made(tmp_path: Path, config: dict[str, Any]) -> None:
    pytest.importorskip("obstore", reason="pip install penstock[s3]")
    values = {
        "service_account_key": '{"private_key": "k", "private_key_id": "i", "client_email": "e",'
        ' "disable_oauth": true}',
        "account_key": "c2VjcmV0",
    }
    names = config.pop("secret_files", [])
    files = {name: tmp_path / name for name in names}
    for name, path in files.items():
        path.write_text(values[name])
    assert SECRET not in repr(open_client(configured(**config, secret_files=files)))


def test_of_an_error_only_what_has_no_secret_is_told() -> None:
    """The texts of the library repeat addresses, headers and answers."""
    text = (
        f"Generic S3 error: Error performing GET https://x/?sig={SECRET} in 1ms - Server returned non-2xx"
        f" status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{SECRET}"
        f"</AWSAccessKeyId></Error> Debug source: kind: Timeout, Authorization: {SECRET}"
    )
    told = trouble_of(OSError(text))
    assert str(told) == "OSError Timeout, HTTP 403, SignatureDoesNotMatch"
    assert told.status == 403
