"""A filesystem of fsspec, as far as a store needs it. All of it blocks, and is called from threads."""

from __future__ import annotations

import errno
import importlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

from penstock.actors.stores.foreign import Foreign, Trouble
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.store import Fate, Outcome, StoreFault, StoreRefused

Result = TypeVar("Result")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]{0,31}")


class Failed(StoreFault):
    """Theirs: what the filesystem raised, without its words."""

    def __init__(self, name: str, trouble: Trouble) -> None:
        super().__init__(f"{name}: {trouble}")
        self.trouble = trouble

    def outcome(self) -> Outcome:
        """Of one object that is not saved or loaded for it."""
        fate = Fate.FULL if self.trouble.os_error in _FULL else Fate.FAULT
        return Outcome(fate, reason=str(self.trouble))


class System:
    """The files below `root`. Every method raises Failed, and nothing else."""

    def __init__(self, name: str, system: Any, root: str) -> None:
        self._name = name
        self._system = system
        self.root = root.rstrip("/")

    @property
    def protocols(self) -> tuple[str, ...]:
        """All names of what it speaks."""
        protocol = self._system.protocol
        return protocol if isinstance(protocol, tuple) else (protocol,)

    def make_folder(self, path: str) -> None:
        self._call(lambda: self._system.makedirs(path, exist_ok=True))

    def is_there(self, path: str) -> bool:
        return bool(self._call(lambda: self._system.exists(path)))

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Its first bytes; None: it is not there."""
        try:
            data: bytes = self._call(lambda: self._system.cat_file(path, start=0, end=bytes_max))
        except Failed as failed:
            if failed.trouble.is_absence:
                return None
            raise
        return data

    def write(self, path: str, data: bytearray) -> None:
        self._call(lambda: self._system.pipe_file(path, data))

    def move(self, path: str, target: str) -> None:
        self._call(lambda: self._system.mv(path, target))

    def remove(self, path: str) -> None:
        """It may be gone already."""
        try:
            self._call(lambda: self._system.rm_file(path))
        except Failed as failed:
            if not failed.trouble.is_absence:
                raise

    def names(self, folder: str) -> list[str]:
        paths: list[str] = self._call(lambda: self._system.ls(folder, detail=False))
        return paths

    def modified_s(self, path: str) -> float:
        """When it was written, by the clock of the filesystem."""
        when: float = self._call(lambda: self._system.modified(path).timestamp())
        return when

    def _call(self, work: Callable[[], Result]) -> Result:
        heard = Foreign()
        with heard:
            return work()
        raise Failed(self._name, heard.trouble)


def open_system(config: FsspecConfig) -> System:
    """Raises StoreRefused without fsspec, for an unknown protocol, or for options it does not take; Failed for all
    else: whoever it connects to may be there later."""
    key = f"stores.{config.name}"
    try:
        fsspec = importlib.import_module("fsspec.core")
    except ImportError:
        problem = "the library is missing: pip install penstock[fsspec]"
        raise StoreRefused(f"{key}.type", problem) from None
    # Others write there too: what was listed once is not what is there.
    options = {"use_listings_cache": False, **config.options}
    heard = Foreign(TypeError, ImportError, StoreRefused)
    try:
        with heard:
            for link in config.url.split("::"):
                _check_protocol(fsspec, link.partition("://")[0], f"{key}.url")
            system, root = fsspec.url_to_fs(config.url, **options)
            return System(config.name, system, str(root))
    except ImportError as error:
        problem = f"a library of it is missing: {error.name or 'see its documentation'}"
        raise StoreRefused(f"{key}.url", problem) from None
    except TypeError:
        problem = "the filesystem does not take this url with these options: "
        raise StoreRefused(f"{key}.options", problem + ", ".join(options)) from None
    raise Failed(config.name, heard.trouble)


def _check_protocol(fsspec: Any, protocol: str, key: str) -> None:
    """Raises StoreRefused. The library has seen nothing yet but this one word, and its own words say no more."""
    if not _PROTOCOL.fullmatch(protocol):
        raise StoreRefused(key, "must be written protocol://path")
    try:
        fsspec.get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        raise StoreRefused(key, f"{protocol} cannot be used: {error}") from None
