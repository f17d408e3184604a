"""Stores of third parties, by name: `module:Class`.

    class TapeStore:                                     # all of `Store`, and:
        class Config(penstock.runtime.config.Config, frozen=True):  # its own keys, read as strictly as ours
            drive: str

        @classmethod
        async def open(cls, config: Config, context: StoreContext) -> TapeStore: ...

    stores:
      - name: tape
        type: plugin
        plugin: my_tapes.store:TapeStore
        options: {drive: /dev/nst0}

`penstock store check my_tapes.store:TapeStore` runs the checks over it that ours have to pass.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Annotated, Any, Protocol, cast

import msgspec

from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.foreign import Foreign, ForeignTask
from penstock.actors.stores.plugin_store import PluginStore, plugin_store
from penstock.actors.stores.store import Ownership, Store, StoreContext, StoreFault, StoreRefused
from penstock.runtime.config import Config, read_record
from penstock.runtime.errors import ConfigError

PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
METHODS = ("locate", "load", "save", "delete", "recover", "cost", "aclose")


class PluginConfig(StoreConfig, frozen=True, kw_only=True, tag="plugin"):
    """A store that is not ours."""

    plugin: Annotated[
        str, msgspec.Meta(pattern=PATTERN, description="module:Class")
    ]  # module:Class
    options: dict[str, Any] = msgspec.field(default_factory=dict)  # of its own Config; never logged

    def __repr__(self) -> str:
        return f"PluginConfig(name={self.name!r}, plugin={self.plugin!r}, options=***)"


class StoreClass(Protocol):
    """What `module:Class` must be, beside a `Store` by its instances."""

    Config: type[Config]

    async def open(self, config: Any, context: StoreContext) -> Store:
        """A classmethod. Raises StoreRefused, StoreFault."""


async def open_plugin(config: PluginConfig, context: StoreContext) -> PluginStore:
    """Raises StoreRefused when there is no such class, or it is no store, or refuses its options; StoreFault."""
    key = f"stores.{config.name}"
    kind = find_plugin(config.plugin, key=f"{key}.plugin")
    options = _read_options(kind, config, f"{key}.options")
    store = await _open(kind, config.name, options, context)
    if store.ownership is Ownership.SHARED:
        try:
            config.check_shared()
        except ValueError as problem:
            await store.aclose()
            raise StoreRefused(key, str(problem)) from None
    return store


def _read_options(kind: StoreClass, config: PluginConfig, key: str) -> Config:
    """Raises StoreRefused."""
    heard = Foreign(ConfigError)
    with heard:
        return read_record(kind.Config, config.options, path=key)
    raise StoreRefused(key, f"its Config refuses them: {heard.trouble}")


async def _open(kind: StoreClass, name: str, options: Config, context: StoreContext) -> PluginStore:
    """Raises what it refuses as StoreRefused, all else as StoreFault: it is tried again."""
    heard = ForeignTask(StoreRefused, StoreFault)
    with heard:
        return plugin_store(name, await kind.open(options, context))
    raise StoreFault(f"{name}: {heard.trouble}")


def find_plugin(name: str, *, key: str) -> StoreClass:
    """The class called `module:Class`. Raises StoreRefused, which names `key`."""
    if re.fullmatch(PATTERN, name) is None:
        raise StoreRefused(key, f"{name!r} is not written module:Class")
    module_name, _, class_name = name.partition(":")
    found = getattr(_module(module_name, key), class_name, None)
    if not isinstance(found, type):
        raise StoreRefused(key, f"{module_name} has no class {class_name}")
    options = getattr(found, "Config", None)
    if not (isinstance(options, type) and issubclass(options, Config)):
        raise StoreRefused(key, f"{name} needs a class Config, derived from penstock's Config")
    missing = [one for one in ("open", *METHODS) if not callable(getattr(found, one, None))]
    if missing:
        raise StoreRefused(
            key, f"{name} lacks {', '.join(missing)}: see penstock.actors.stores.store"
        )
    return cast("StoreClass", found)


def _module(name: str, key: str) -> ModuleType:
    """Raises StoreRefused, whatever it does when it is imported."""
    heard = Foreign(ImportError, SyntaxError)
    try:
        with heard:
            return importlib.import_module(name)
    except (ImportError, SyntaxError) as problem:
        raise StoreRefused(key, f"{name} cannot be imported: {problem}") from problem
    raise StoreRefused(key, f"{name} cannot be imported: {heard.trouble}")
