"""How a bucket is reached: the client of `obstore`, its credentials, and what may be told of its errors.

Credentials are looked for in this order: `credentials_file` and `secret_files` of the configuration; then, by the
library, the environment, a web identity token, the container's and the instance's role. Texts of the library's errors
repeat addresses, headers and answers of the service, among them names of keys and signatures: none of it is passed on.
"""

from __future__ import annotations

import configparser
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.actors.stores.s3_config import GCS, LOCAL, MEMORY, S3, S3Config
from penstock.actors.stores.s3_options import plain_name
from penstock.actors.stores.store import StoreRefused
from penstock.runtime.security import Secret

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, S3Credential

KEPT_S = 300.0  # then the files are read again: keys are rotated
# The library asks before each request, and how long an answer holds is judged here, by a clock that never jumps.
ASK_AGAIN = datetime(2000, 1, 1, tzinfo=UTC)
SIGNING = {"access_key_id", "secret_access_key", "session_token"}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")
_KIND = re.compile(r"kind: ([A-Z][A-Za-z]{1,31})\b")
_OS = re.compile(r"\(os error (\d+)\)")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What may be told of an error of the library."""

    kind: str  # class of the error, and of its cause
    status: int  # of HTTP; 0: there was none
    code: str  # what the service calls it
    os_error: int  # of a local folder

    def __str__(self) -> str:
        status = f"HTTP {self.status}" if self.status else ""
        os_error = f"os error {self.os_error}" if self.os_error else ""
        return ", ".join(filter(None, (self.kind, status, self.code, os_error)))


def trouble_of(error: BaseException) -> Trouble:
    """Of any error that obstore raises."""
    text = str(error)
    status, code, os_error = _STATUS.search(text), _CODE.search(text), _OS.search(text)
    kinds = dict.fromkeys(_KIND.findall(text))
    return Trouble(
        kind=" ".join([type(error).__name__, *kinds]),
        status=int(status[1]) if status else 0,
        code=code[1] if code else "",
        os_error=int(os_error[1]) if os_error else 0,
    )


def open_client(config: S3Config) -> ObjectStore:
    """Blocks. Raises StoreRefused; nothing has been asked of the service yet."""
    key = f"stores.{config.name}"
    try:
        from obstore import exceptions
        from obstore.store import LocalStore, MemoryStore, from_url
    except ImportError:
        problem = "the library is missing: pip install penstock[s3]"
        raise StoreRefused(f"{key}.type", problem) from None
    if config.scheme in MEMORY:
        return MemoryStore()
    try:
        if config.scheme in LOCAL:
            return LocalStore.from_url(config.url, mkdir=True)
        given: dict[str, Any] = {
            "config": _options(config, key),
            "client_options": _client_options(config, key),
            "retry_config": {"max_retries": 0},  # who retries is the actor
        }
        provider = _provider(config, key)
        if provider is not None:
            given["credential_provider"] = provider
        return from_url(config.url, **given)
    except (exceptions.BaseError, ValueError, OSError) as error:
        problem = f"the client cannot be made: {trouble_of(error)}; see url and options"
        raise StoreRefused(f"{key}.url", problem) from None


def _options(config: S3Config, key: str) -> dict[str, str]:
    options = {plain_name(option): value for option, value in config.options.items()}
    if config.scheme in S3:
        # What is sent is under a digest of its own, and under TLS: it need not be hashed once more to be signed.
        options.setdefault("unsigned_payload", "true")
        if config.region:
            options["region"] = config.region
    if config.endpoint:
        options["base_url" if config.scheme in GCS else "endpoint"] = config.endpoint
    if config.credentials_file is not None and config.scheme in GCS:
        options["service_account"] = str(config.credentials_file)
    signing = SIGNING if config.scheme in S3 else set()
    for option, path in config.secret_files.items():
        if plain_name(option) not in signing:
            options[plain_name(option)] = _secret(path, f"{key}.secret_files.{option}").reveal()
    return options


def _client_options(config: S3Config, key: str) -> ClientConfig:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=config.connect_within),
        "read_timeout": timedelta(seconds=config.stall_within),
        "timeout": timedelta(seconds=config.request_within),
        "allow_http": config.endpoint.startswith("http://"),
    }
    if config.tls_ca is not None:
        try:
            options["root_certificate"] = config.tls_ca.read_bytes()
        except OSError as error:
            raise StoreRefused(f"{key}.tls_ca", f"cannot be read: {error.strerror}") from None
    return options


def _provider(config: S3Config, key: str) -> Callable[[], S3Credential] | None:
    """None: the library looks for credentials itself."""
    if config.scheme not in S3:
        return None
    given = {plain_name(option): path for option, path in config.secret_files.items()}
    files = {name: path for name, path in given.items() if name in SIGNING}
    if config.credentials_file is not None and files:
        raise StoreRefused(f"{key}.secret_files", "credentials_file says the same: give one")
    if config.credentials_file is not None:
        return Kept(FromProfile(config.credentials_file, config.profile, key))
    if not files:
        return None
    if not {"access_key_id", "secret_access_key"} <= files.keys():
        problem = "access_key_id and secret_access_key are given together"
        raise StoreRefused(f"{key}.secret_files", problem)
    return Kept(FromFiles(files, key))


class FromFiles:
    """Credentials of S3 from one file each. Raises StoreRefused."""

    def __init__(self, files: dict[str, Path], key: str) -> None:
        self._files = files
        self._key = key

    def __call__(self) -> S3Credential:
        values = {
            name: _secret(path, f"{self._key}.secret_files.{name}").reveal()
            for name, path in self._files.items()
        }
        return _credential(values)


class FromProfile:
    """Credentials of S3 from a file like ~/.aws/credentials. Raises StoreRefused."""

    def __init__(self, path: Path, profile: str, key: str) -> None:
        self._path = path
        self._profile = profile
        self._key = key

    def __call__(self) -> S3Credential:
        where = f"{self._key}.credentials_file"
        reader = configparser.ConfigParser(interpolation=None)
        try:
            reader.read_string(self._path.read_text())
        except OSError as error:
            raise StoreRefused(where, f"cannot be read: {error.strerror}") from None
        except (configparser.Error, UnicodeDecodeError):
            raise StoreRefused(where, "is not written as ~/.aws/credentials is") from None
        if not reader.has_section(self._profile):
            raise StoreRefused(where, f"has no profile {self._profile}")
        found = {name.removeprefix("aws_"): value for name, value in reader[self._profile].items()}
        missing = {"access_key_id", "secret_access_key"} - found.keys()
        if missing:
            raise StoreRefused(where, f"has no aws_{min(missing)} in profile {self._profile}")
        return _credential(found)


class Kept:
    """What a provider said, asked again every few minutes. Raises StoreRefused the first time only.

    Files that cannot be read later, because they are just being replaced, leave what was read before.
    """

    def __init__(self, provider: Callable[[], S3Credential]) -> None:
        self._provider = provider
        self._credential = provider()
        self._until_s = time.monotonic() + KEPT_S

    def __call__(self) -> S3Credential:
        if time.monotonic() >= self._until_s:
            with suppress(StoreRefused):
                self._credential = self._provider()
            self._until_s = time.monotonic() + KEPT_S
        return self._credential


def _credential(values: dict[str, str]) -> S3Credential:
    return {
        "access_key_id": values["access_key_id"],
        "secret_access_key": values["secret_access_key"],
        "token": values.get("session_token"),
        "expires_at": ASK_AGAIN,
    }


def _secret(path: Path, where: str) -> Secret:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise StoreRefused(where, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StoreRefused(where, "is no text") from None
    if not text:
        raise StoreRefused(where, "is empty")
    return Secret(text)
