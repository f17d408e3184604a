"""Certificates for nodes of a test, as files."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme

from penstock.runtime.security import TlsFiles

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Authority:
    """Issues into a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(
        self, *names: str, file: str = "", not_after: datetime.datetime | None = None
    ) -> TlsFiles:
        """For `names`, over what was issued for `file` (default: the first name) before."""
        issued = self._authority.issue_cert(*names, not_after=not_after)
        stem = self._directory / (file or names[0])
        files = TlsFiles(stem.with_suffix(".pem"), stem.with_suffix(".key"), self.ca)
        for path, pem in (
            (files.key, issued.private_key_pem),
            (files.certificate, issued.cert_chain_pems[0]),
        ):
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(pem.bytes())
        return files


def replace(path: Path, content: bytes) -> None:
    """Put `content` in the place of what lies at `path`, in one step."""
    aside = path.with_name(path.name + ".new")
    aside.write_bytes(content)
    aside.replace(path)
