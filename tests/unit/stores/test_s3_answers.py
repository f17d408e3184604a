"""A bucket whose answers are not what was asked for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.stores.s3 import open_s3_store
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.samples import make_sample
from penstock.actors.stores.store import Fate, StoreContext
from penstock.runtime.units import MIB, ByteSize

PART_BYTES = 5 * MIB
SIZE = 2 * PART_BYTES + 4096
BODY_BYTES = 256 * MIB


class Talker:
    """Says that it sends the first part, and sends more and more."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                with link, link.makefile("rb") as lines, suppress(OSError):
                    self._talk(link, lines)

    def _talk(self, link: socket.socket, lines: Iterator[bytes]) -> None:
        while True:
            head = b"".join(iter(lambda: next(lines, b"\r\n"), b"\r\n")).lower()
            if not head:
                return
            if b"\r\nrange:" not in head:
                link.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            link.sendall(
                b"HTTP/1.1 206 Partial Content\r\nETag: 'a'\r\n"
                b"Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
                b"Content-Range: bytes 0-%d/%d\r\nContent-Length: %d\r\n\r\n"
                % (PART_BYTES - 1, SIZE, BODY_BYTES)
            )
            while self.sent_bytes < BODY_BYTES:
                self.sent_bytes += link.send(bytes(MIB))


@pytest.fixture
def talker() -> Iterator[Talker]:
    made = Talker()
    yield made
    made.close()


def test_an_answer_longer_than_it_says_is_not_read_to_its_end(
    talker: Talker, tmp_path: Path
) -> None:
    """Memory is not the service's to fill: what goes beyond the range ends the reading."""
    pytest.importorskip("obstore", reason="pip install penstock[s3]")
    files = {name: tmp_path / name for name in ("access_key_id", "secret_access_key")}
    for path in files.values():
        path.write_text("x")
    config = S3Config(
        name="s",
        url="s3://b/p",
        region="us-east-1",
        endpoint=f"http://127.0.0.1:{talker.port}",
        secret_files=files,
        part_bytes=ByteSize(PART_BYTES),
    )

    async def run() -> None:
        store = await open_s3_store(config, StoreContext("s", Epoch(bytes(16))))
        (outcome,) = await store.load([(await make_sample(1, 2 * PART_BYTES)).wanted()])
        assert outcome.fate is Fate.FAULT
        await store.aclose()

    anyio.run(run)
    assert PART_BYTES <= talker.sent_bytes < BODY_BYTES // 4
