"""One folder of a file store: owners, leftovers, and what recovery takes for an object."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.mounts import mounted

from penstock._native import Caching
from penstock.actors.api.types import Epoch
from penstock.actors.stores import file_folder, medium_checks
from penstock.actors.stores.file_config import FileConfig, Placement
from penstock.actors.stores.file_folder import (
    Folder,
    Marker,
    object_name,
    read_tenant,
    unread,
)
from penstock.actors.stores.header import Header, encode
from penstock.actors.stores.store import Entry, Ownership, StoreFault, StoreRefused
from penstock.runtime.units import GIB, ByteSize

KEY = hashlib.sha256(b"key").digest()
MARKER = Marker(Placement.BY_KEY, paths=1, index=0)


def opened(
    path: Path,
    ownership: Ownership = Ownership.EXCLUSIVE,
    *,
    marker: Marker = MARKER,
    epoch: int = 1,
) -> Folder:
    folder = Folder(path, marker, ownership, Epoch(bytes([epoch]) * 16))
    try:
        folder.claim()
    except (StoreFault, StoreRefused):
        folder.close()
        raise
    return folder


def write(folder: Folder, name: str, size: int) -> Path:
    place = folder.path / name
    place.write_bytes(bytes(size))
    return place


@contextmanager
def died(path: Path) -> Iterator[list[str]]:
    """A process that opened the folder as SHARED, left two temporaries, and was killed. Their names."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        folder = opened(path, Ownership.SHARED)
        names = [folder.temporary(), folder.temporary()]
        for name in names:
            write(folder, name, 5000)
        os.write(tell, ",".join(names).encode())
        os.kill(os.getpid(), 9)
    os.close(tell)
    names = os.read(ready, 4096).decode().split(",")
    os.close(ready)
    os.waitpid(child, 0)
    yield names


@pytest.mark.parametrize("first", Ownership)
@pytest.mark.parametrize("second", Ownership)
def test_who_may_use_a_folder_together(first: Ownership, second: Ownership, tmp_path: Path) -> None:
    """A19: an exclusive folder has one owner; shared ones have many, also within one process."""
    together = first is second is Ownership.SHARED
    with closing(opened(tmp_path, first)):
        if together:
            opened(tmp_path, second).close()
        else:
            with pytest.raises(StoreRefused, match="give each its own folder"):
                opened(tmp_path, second)
    opened(tmp_path, second).close()


def test_no_two_stores_ever_use_one_temporary_name(tmp_path: Path) -> None:
    """A19: not even of one process and one epoch."""
    with closing(opened(tmp_path, Ownership.SHARED)) as one:
        with closing(opened(tmp_path, Ownership.SHARED)) as other:
            names = [folder.temporary() for folder in (one, other, one, other)]
            assert len(set(names)) == 4


def test_what_dead_stores_left_aside_is_removed_and_what_is_of_the_living_stays(
    tmp_path: Path,
) -> None:
    with died(tmp_path) as names, closing(opened(tmp_path, Ownership.SHARED, epoch=2)) as living:
        of_living = write(living, living.temporary(), 100)
        with closing(opened(tmp_path, Ownership.SHARED, epoch=3)) as newcomer:
            assert all((tmp_path / name).exists() for name in names)
            assert newcomer.sweep() == 1
            assert not any((tmp_path / name).exists() for name in names)
            assert of_living.exists()
            assert newcomer.sweep() == 0


def test_a_leftover_without_its_owner_file_goes_too(tmp_path: Path) -> None:
    """As one has that was killed while it removed another."""
    with died(tmp_path) as names, closing(opened(tmp_path)) as folder:
        (tmp_path / names[0]).parent.joinpath("owner").unlink()
        assert folder.sweep() == 1
        assert not (tmp_path / names[0]).exists()


def test_closing_takes_the_temporaries_away(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    write(folder, folder.temporary(), 1)
    folder.close()
    folder.close()
    assert not any((tmp_path / "aside").iterdir())


@pytest.mark.parametrize(
    "other",
    [
        Marker(Placement.BY_KEY, paths=2, index=0),
        Marker(Placement.BY_KEY, paths=1, index=1),
        Marker(Placement.BY_DEVICE, paths=1, index=0),
    ],
)
def test_a_folder_of_another_arrangement_is_refused(other: Marker, tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(StoreRefused, match="name the paths as they were, or empty the folder"):
        opened(tmp_path, marker=other)
    opened(tmp_path).close()


@pytest.mark.parametrize("left", [b"", bytes(70)])
def test_a_marker_without_its_bytes_is_made_anew(left: bytes, tmp_path: Path) -> None:
    """C4: as a power cut left it of a version that did not sync it. Seen to fail: refused for good."""
    opened(tmp_path).close()
    (tmp_path / "penstock.json").write_bytes(left)
    opened(tmp_path).close()
    with pytest.raises(StoreRefused, match="not as"):
        opened(tmp_path, marker=Marker(Placement.BY_KEY, paths=2, index=0))
    assert [one.name for one in tmp_path.glob("penstock*")] == ["penstock.json"]


def test_of_two_that_come_to_a_marker_without_bytes_one_makes_it(tmp_path: Path) -> None:
    """A19: so that two arrangements never share a folder."""
    markers = [Marker(Placement.BY_KEY, paths=2, index=index) for index in (0, 1)]
    gate = threading.Barrier(2)

    def come(path: Path, marker: Marker) -> bool:
        gate.wait(10)
        try:
            opened(path, Ownership.SHARED, marker=marker).close()
        except StoreRefused:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        for number in range(20):
            path = tmp_path / str(number)
            path.mkdir()
            (path / "penstock.json").touch()
            came = [threads.submit(come, path, marker) for marker in markers]
            assert sorted(one.result(10) for one in came) == [False, True]


def test_a_folder_of_a_later_format_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    place = tmp_path / "penstock.json"
    place.write_text(place.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreRefused, match='"format": 2'):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    """E4. Seen to fail: a node started without the store, and tried for ever."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused, match=f"{name} is no folder, .*: name one"):
        opened(tmp_path / name)


@pytest.mark.parametrize("target", ["not/mounted", "link"])
def test_a_link_that_leads_nowhere_is_tried_again(tmp_path: Path, target: str) -> None:
    """B14: a disk that is not mounted yet, or a link to itself: whoever mends it need not start the node again.

    Seen to fail: refused for good, and a link to itself was a bare RuntimeError when the configuration was read.
    """
    link = tmp_path / "link"
    link.symlink_to(target)
    FileConfig(name="files", paths=str(link / "kv"), capacity=ByteSize(GIB))
    with pytest.raises(StoreFault, match="link/kv"):
        opened(link / "kv")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "Permission denied: let the user of the node read and write it"),
        (errno.EROFS, "Read-only file system: mount it writable"),
        (errno.ENOSPC, "No space left on device: make room on its disk"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("where", ["mkdir", "open"])
def test_a_folder_that_cannot_be_used_yet_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, where: str
) -> None:
    """E4: it is tried again, so that nobody has to start the node anew. Seen to fail: the error's number, no advice."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "path")

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(StoreFault, match=f"below cannot be opened: {advice}"):
        opened(tmp_path / "below")


def test_names_of_objects_are_digits_whatever_the_key_says() -> None:
    """D5: no byte of a key is ever part of a path as it stands."""
    for key in (b"../" * 10 + b"\0\0", b"/" * 32, b"\xff" * 32):
        name = object_name(key)
        assert name == f"objects/{key.hex()[0]}/{key.hex()[1]}/{key.hex()}"
        assert ".." not in name


def test_recovery_tells_objects_by_names_and_sizes_and_nothing_else(tmp_path: Path) -> None:
    """C2: whole blocks, also of a last one that is not full; no file is opened."""
    marker = Marker(Placement.BY_DEVICE, paths=4, index=3)
    with closing(opened(tmp_path, marker=marker)) as folder:
        place = write(folder, object_name(KEY), 3 * 4096 + 1)
        place.chmod(0)
        stranger = write(folder, "objects/0/0/README", 9000)
        misplaced = write(folder, f"objects/0/0/{KEY.hex()}", 9000)
        stub = write(folder, object_name(bytes(32)), 4095)  # by a power cut
        found = [entry for batch in folder.entries(1, unread) for entry in batch]
        assert found == [Entry(KEY, 3, 4 * 4096, None)]
        assert stranger.exists()
        assert misplaced.exists()
        assert not stub.exists()


def test_whose_objects_are_stands_in_their_first_block(tmp_path: Path) -> None:
    """D6: what says nothing of it is nobody's."""
    tenant, other = b"t" * 16, hashlib.sha256(b"other").digest()
    header = Header(KEY, bytes(32), tenant, 1, 1, 0, bytes(8 * 1000))
    with closing(opened(tmp_path)) as folder:
        write(folder, object_name(KEY), 1).write_bytes(encode(header))
        assert len(encode(header)) > 4096
        write(folder, object_name(other), 2 * 4096)
        (tmp_path / object_name(bytes(32))).mkdir()  # no file: none of ours
        found = {one.key: one.tenant for some in folder.entries(8, read_tenant) for one in some}
    assert found == {KEY: tenant, other: None}


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_filesystem_without_a_disk_is_used_through_the_page_cache(
    kind: str, tmp_path: Path
) -> None:
    with mounted(kind, tmp_path / "ram") as path, closing(opened(path)) as folder:
        assert folder.caching_of(Caching.DIRECT) is Caching.BUFFERED


def test_a_mount_whose_name_is_no_text_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E4. Seen to fail: no store of files could be opened."""
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(
        b"22 1 0:999 / /mnt/\xff rw - ext4 none rw\n" + medium_checks.MOUNTS.read_bytes()
    )
    monkeypatch.setattr(medium_checks, "MOUNTS", mounts)
    with mounted("tmpfs", tmp_path / "ram") as path:
        mounts.write_bytes(mounts.read_bytes() + Path("/proc/self/mountinfo").read_bytes())
        with closing(opened(path)) as folder:
            assert folder.caching_of(Caching.DIRECT) is Caching.BUFFERED


def test_a_filesystem_that_refuses_direct_io_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_folder, "lies_in_memory", lambda _: False)  # then ramfs is such a one
    with mounted("ramfs", tmp_path / "ram") as path:
        with closing(opened(path)) as folder:
            assert folder.caching_of(Caching.DIRECT) is Caching.BUFFERED
            assert folder.caching_of(Caching.BUFFERED) is Caching.BUFFERED
    with closing(opened(tmp_path / "disk")) as folder:
        folder.caching_of(Caching.DIRECT)
        assert [one.name for one in (tmp_path / "disk/aside").glob("*/*")] == ["owner"]
