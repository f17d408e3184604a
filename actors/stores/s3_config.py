"""How a store of objects in a bucket is configured.

- name: bucket
  type: s3
  url: s3://kv-cache/models
  region: eu-central-1
  credentials_file: /run/secrets/aws
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

import msgspec

from penstock.actors.stores.config import StoreConfig, check_durations
from penstock.actors.stores.s3_options import check_options
from penstock.runtime.security import parse_address
from penstock.runtime.units import MIB, ByteSize, Seconds

S3 = frozenset({"s3", "s3a"})
GCS = frozenset({"gs"})
AZURE = frozenset({"az", "azure", "adl", "abfs", "abfss"})
LOCAL = frozenset({"file"})
MEMORY = frozenset({"memory"})
SCHEMES = S3 | GCS | AZURE | LOCAL | MEMORY

NETWORK = S3 | GCS | AZURE
OF_SCHEMES = {
    "region": S3,
    "profile": S3,
    "credentials_file": S3 | GCS,
    **dict.fromkeys(
        (
            "endpoint",
            "allow_http",
            "tls_ca",
            "secret_files",
            "options",
            "connect_within",
            "stall_within",
            "request_within",
        ),
        NETWORK,
    ),
}
"""Keys that mean something to some schemes only, and to which."""
OF_OTHERS = {"profile": "credentials_file", "allow_http": "endpoint"}
"""Keys that mean something beside another one only, and beside which."""

PART_BYTES_MIN = 5 * MIB  # the least that S3 takes as a part that is not the last
PART_BYTES_MAX = 512 * MIB

Requests: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class S3Config(StoreConfig, frozen=True, kw_only=True, tag="s3"):
    """Objects in a bucket of S3, Google Cloud or Azure, in a local folder, or in memory, by the scheme of `url`."""

    url: str  # s3://bucket/prefix, gs://..., az://container/prefix, file:///folder, memory:///
    region: str = ""  # of S3
    endpoint: str = ""  # of a service that is not the cloud's own, such as https://minio:9000
    allow_http: bool = False  # an endpoint in the clear beyond this machine
    tls_ca: Path | None = None  # PEM of an authority to trust beside the system's
    credentials_file: Path | None = None  # S3: as ~/.aws/credentials; Google: of a service account
    profile: str = "default"  # in it
    secret_files: dict[str, Path] = msgspec.field(
        default_factory=dict
    )  # option: the file that holds its value and nothing else
    options: dict[str, str] = msgspec.field(
        default_factory=dict
    )  # further options of obstore, none of them secret
    requests_max: Requests = 32  # at a time, of all batches together
    multipart_over: ByteSize = ByteSize(16 * MIB)  # a larger object is sent in parts
    part_bytes: ByteSize = ByteSize(8 * MIB)  # of an upload in parts, and of each ranged read
    parts_max: Requests = 4  # of one upload at a time
    connect_within: Seconds = Seconds(2)
    stall_within: Seconds = Seconds(5)  # an answer that pauses for so long is given up
    request_within: Seconds = Seconds(30)  # one request, its answer included
    locate_within: Seconds = Seconds(1)
    load_within: Seconds = Seconds(10)
    save_within: Seconds = Seconds(60)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_durations(self, "connect_within", "stall_within", "request_within")
        url = self._checked_url()
        if self.capacity:
            problem = "capacity: others write there too; let the bucket expire objects instead"
            raise ValueError(problem)
        self.check_shared()
        if not PART_BYTES_MIN <= self.part_bytes <= PART_BYTES_MAX:
            raise ValueError(f"part_bytes must be 5 to 512 MiB, not {self.part_bytes}")
        self._check_keys(url)
        self._check_endpoint()
        check_options(self.options, self.secret_files)

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    def __repr__(self) -> str:
        return f"S3Config(name={self.name!r}, url={self.url!r}, ...)"

    def _checked_url(self) -> str:
        parts = urlsplit(self.url)
        if parts.scheme not in SCHEMES or "//" not in self.url:
            known = ", ".join(sorted(SCHEMES))
            raise ValueError(f"url must begin with one of {known}, as in s3://bucket/prefix")
        if parts.username or parts.password or parts.query or parts.fragment:
            # Not repeated here: what stands there may be a secret.
            raise ValueError("url must have no user, password, query or fragment")
        if parts.scheme not in LOCAL | MEMORY and not parts.netloc:
            raise ValueError("url must name a bucket, as in s3://bucket/prefix")
        return parts.scheme

    def _check_keys(self, scheme: str) -> None:
        """None is given that has no effect."""
        for name in self._given(OF_SCHEMES):
            if scheme not in OF_SCHEMES[name]:
                known = ", ".join(f"{one}://" for one in sorted(OF_SCHEMES[name]))
                raise ValueError(f"{name} is for {known}, not for {scheme}://; leave it out")
        for name in self._given(OF_OTHERS):
            if not self._given([OF_OTHERS[name]]):
                raise ValueError(f"{name} is of no effect without {OF_OTHERS[name]}: say that, too")

    def _check_endpoint(self) -> None:
        if not self.endpoint:
            return
        parts = urlsplit(self.endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            # Not repeated here: what stands there may be a secret.
            raise ValueError("endpoint must be written https://host:port")
        if parts.scheme == "http" and not self.allow_http and not _is_here(parts.hostname):
            raise ValueError("endpoint is in the clear: write https://, or set allow_http")


def _is_here(host: str) -> bool:
    address = parse_address(f"[{host}]:0" if ":" in host else f"{host}:0")
    return bool(getattr(address, "is_loopback", False))
