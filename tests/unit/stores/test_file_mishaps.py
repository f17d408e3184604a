"""A file store whose folder is not as it left it: after a power cut, or because somebody tidied it up."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from support.mounts import disk_image, mounted, shut_down

from penstock.actors.api.types import Epoch
from penstock.actors.stores.file import FileStore, open_file_store
from penstock.actors.stores.file_config import DurabilityName, FileConfig, FileIo
from penstock.actors.stores.samples import Sample, make_sample
from penstock.actors.stores.store import Fate, StoreContext
from penstock.runtime.units import GIB, MIB, ByteSize


def run(
    work: Callable[[FileStore], Awaitable[None]], folder: Path, io: FileIo = FileIo.DIRECT
) -> None:
    config = FileConfig(
        name="disk",
        paths=str(folder),
        capacity=ByteSize(GIB),
        io=io,
        durability=DurabilityName.FDATASYNC,
    )

    async def main() -> None:
        store = await open_file_store(config, StoreContext("disk", Epoch(bytes(16))))
        try:
            await work(store)
        finally:
            await store.aclose()

    anyio.run(main)


async def fates(store: FileStore, samples: list[Sample]) -> list[Fate]:
    return [one.fate for one in await store.save([one.given() for one in samples])]


def test_a_folder_that_lies_nowhere_any_more_costs_saves_and_no_more(tmp_path: Path) -> None:
    """B5: its path is a file now, and its temporaries are gone. Seen to fail: NotADirectoryError ended the actor."""
    folder = tmp_path / "kv"

    async def work(store: FileStore) -> None:
        saved, lost = await make_sample(1, 9000), await make_sample(2, 9000)
        assert await fates(store, [saved]) == [Fate.DONE]
        remove_all(folder, "aside")
        folder.rename(tmp_path / "elsewhere")
        folder.touch()
        assert await fates(store, [lost]) == [Fate.FAULT]
        into = saved.wanted()
        assert (await store.load([into]))[0].fate is Fate.DONE

    run(work, folder)


@pytest.mark.parametrize("io", FileIo)
def test_saves_go_on_when_somebody_took_the_temporaries_away(
    io: FileIo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By hand, or by a sweep on a filesystem whose locks do not reach other machines. Seen to fail: every save did,
    with "No such file or directory", until the node was started anew."""

    async def work(store: FileStore) -> None:
        samples = [await make_sample(n, 9000) for n in range(8)]
        for taken in ("aside", "aside/*"):
            remove_all(tmp_path, taken)
            assert await fates(store, samples) == [Fate.DONE] * 8
        said = [one.message for one in caplog.records if "aside_renewed" in one.message]
        assert len(said) == 2
        assert not can_be_swept(tmp_path)

    run(work, tmp_path, io)
    assert not any((tmp_path / "aside").iterdir())


def test_what_was_saved_durably_is_found_after_a_power_cut_soon_after_the_folder_was_made(
    tmp_path: Path,
) -> None:
    """C4: the marker survives with the objects. Seen to fail: `penstock.json` was there without its bytes, and the
    folder was refused from then on."""
    sample = anyio.run(make_sample, 1, 20_000)

    async def save(store: FileStore) -> None:
        assert await fates(store, [sample]) == [Fate.DONE]
        shut_down(disk)

    async def load(store: FileStore) -> None:
        into = sample.wanted()
        assert (await store.load([into]))[0].fate is Fate.DONE
        assert await sample.is_in(into)

    with disk_image(tmp_path, size_bytes=32 * MIB) as disk:
        run(save, disk / "made/here")
    image = str(tmp_path / "image")
    with mounted("ext4", tmp_path / "again", options="loop", device=image) as disk:
        assert '"format"' in (disk / "made/here/penstock.json").read_text()
        run(load, disk / "made/here")


def remove_all(root: Path, pattern: str) -> None:
    for folder in root.glob(pattern):
        shutil.rmtree(folder)


def can_be_swept(folder: Path) -> bool:
    """What its only owner has aside."""
    (mine,) = (folder / "aside").iterdir()
    with (mine / "owner").open() as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
