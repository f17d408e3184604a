"""The fingerprint of a directory of safetensors files."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from penstock.actors.weights import NoWeights, safetensors_fingerprint


def write(path: Path, tensors: dict[str, bytes]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, content in tensors.items():
        places = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": places}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write(tmp_path / "a.safetensors", {"q": bytes(10_000), "k": bytes(10)})
    write(tmp_path / "b.safetensors", {"v": bytes(5000), "empty": b""})
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_equal_files_have_one_fingerprint_wherever_they_lie(model: Path, tmp_path: Path) -> None:
    first = safetensors_fingerprint(model)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("b.safetensors", "a.safetensors"):
        (elsewhere / name).write_bytes((model / name).read_bytes())
    assert safetensors_fingerprint(elsewhere) == first
    assert first.startswith("safetensors:")
    assert len(first) == len("safetensors:") + 64


@pytest.mark.parametrize("place", [0, 5000, 9999])
def test_trained_weights_under_the_same_header_are_others(model: Path, place: int) -> None:
    """A21: a fine-tune has its base's header; its tensors differ.

    Seen to fail with the samples left out of the digest.
    """
    before = safetensors_fingerprint(model)
    content = bytearray(10_000)
    content[place] = 1
    write(model / "a.safetensors", {"q": bytes(content), "k": bytes(10)})
    assert safetensors_fingerprint(model) != before


def test_names_shapes_and_files_count(model: Path) -> None:
    seen = {safetensors_fingerprint(model)}
    write(model / "b.safetensors", {"v2": bytes(5000), "empty": b""})
    seen.add(safetensors_fingerprint(model))
    (model / "b.safetensors").rename(model / "c.safetensors")
    seen.add(safetensors_fingerprint(model))
    (model / "c.safetensors").unlink()
    seen.add(safetensors_fingerprint(model))
    assert len(seen) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 5) + b"nope!",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"q":{}}',
        struct.pack("<Q", 30) + b'{"q": {"data_offsets":[0,9]}} ',
        struct.pack("<Q", 30) + b'{"q":{"data_offsets":[-1,0]}} ',
        struct.pack("<Q", 30) + b'{"q":{"data_offsets":"ab"}}   ',
        struct.pack("<Q", 30) + b'{"q":{"data_offsets":[0,"a"]}}',
        struct.pack("<Q", 200_000) + b"[" * 200_000,  # deeper than the reader of JSON goes
        struct.pack("<Q", 500_000) + b'{"a":' * 100_000,
        struct.pack("<Q", 99_999_999) + b"{}",  # ends before its header does
    ],
    ids=range(13),
)
def test_a_damaged_file_is_refused(model: Path, content: bytes) -> None:
    (model / "a.safetensors").write_bytes(content)
    with pytest.raises(NoWeights, match=r"a\.safetensors"):
        safetensors_fingerprint(model)


def test_a_name_that_is_no_text_counts_as_its_bytes(model: Path) -> None:
    """Seen to fail with UnicodeEncodeError."""
    odd = model / os.fsdecode(b"\xff.safetensors")
    (model / "b.safetensors").rename(odd)
    first = safetensors_fingerprint(model)
    odd.rename(model / os.fsdecode(b"\xfe.safetensors"))
    assert safetensors_fingerprint(model) != first


def test_what_is_no_regular_file_is_refused_and_not_waited_for(model: Path) -> None:
    """A pipe has no end to wait for. Seen to block for ever."""
    os.mkfifo(model / "c.safetensors")
    with pytest.raises(NoWeights, match=r"c\.safetensors is no regular file"):
        safetensors_fingerprint(model)
    (model / "c.safetensors").unlink()
    (model / "c.safetensors").mkdir()
    with pytest.raises(NoWeights, match=r"c\.safetensors is no regular file"):
        safetensors_fingerprint(model)


def test_a_link_to_a_file_is_followed(model: Path, tmp_path: Path) -> None:
    """As the hub's cache lays its files out."""
    first = safetensors_fingerprint(model)
    (model / "b.safetensors").rename(tmp_path / "blob")
    (model / "b.safetensors").symlink_to(tmp_path / "blob")
    assert safetensors_fingerprint(model) == first


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoWeights, match="no safetensors files"):
        safetensors_fingerprint(tmp_path)
