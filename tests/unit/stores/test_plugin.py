"""Stores of third parties: found by name, configured strictly, checked by the command."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support.plugin_store import KindStore, OthersStore

from penstock.actors.api.types import KEY_BYTES, Epoch
from penstock.actors.cli.main import main
from penstock.actors.config import NodeConfig
from penstock.actors.stores.header import TENANT_BYTES
from penstock.actors.stores.memory import Held
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.plugin import PluginConfig, find_plugin
from penstock.actors.stores.plugin_store import PluginStore
from penstock.actors.stores.store import BLOCK_BYTES, StoreContext, StoreRefused
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.units import MIB, ByteSize

OTHERS = "support.plugin_store:OthersStore"
KIND, FORGETFUL = "support.plugin_store:KindStore", "support.plugin_store:ForgetfulStore"
CONTEXT = StoreContext("mine", Epoch(bytes(16)))


def test_it_is_opened_with_its_own_options(tmp_path: Path) -> None:
    text = f"stores: [{{name: mine, type: plugin, plugin: '{KIND}', options: {{shelf: two}}}}]"
    path = tmp_path / "node.yaml"
    path.write_text(text)
    (config,) = load_config(NodeConfig, path).stores
    store = anyio.run(open_store, config, CONTEXT)
    assert isinstance(store, PluginStore)
    assert isinstance(store._store, KindStore)
    assert "two" in KindStore.shelves
    assert "two" not in repr(config), "options may hold secrets"


def test_its_options_are_read_as_strictly_as_ours() -> None:
    """E4: an unknown key is an error with its path."""
    config = PluginConfig(name="mine", plugin=KIND, options={"shelff": "two"})
    with pytest.raises(
        ConfigError, match=r"stores\.mine\.options\.shelff: there is no such key; did"
    ):
        anyio.run(open_store, config, CONTEXT)


def test_what_nobody_keeps_is_refused_once_it_is_known_whose_the_store_is() -> None:
    """E4: a capacity of a store that others write, too."""
    config = PluginConfig(name="mine", plugin=OTHERS, capacity=ByteSize(MIB))
    with pytest.raises(ConfigError, match="capacity: others write there too"):
        anyio.run(open_store, config, CONTEXT)
    assert OthersStore.closed == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.at_all:Store", "cannot be imported"),
        ("support.plugin_store:Other", "has no class Other"),
        ("support.plugin_store:NoStore", "needs a class Config"),
        ("support.plugin_store", "not written module:Class"),
    ],
)
def test_what_is_no_store_is_refused_and_said_why(name: str, said: str) -> None:
    with pytest.raises(StoreRefused, match=said):
        find_plugin(name, key="stores.mine.plugin")


@pytest.mark.loop_step_ms(30)  # the check of 32 MiB objects gives its own memory back at once
def test_the_command_passes_a_store_that_keeps_its_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also one that is not empty. Seen to fail: what was there before was taken for a mistake."""
    old = Held(0, bytes(TENANT_BYTES), bytes(BLOCK_BYTES), (bytes(BLOCK_BYTES),), BLOCK_BYTES)
    KindStore.shelves["one"] = {bytes(KEY_BYTES): old}
    assert main(["store", "check", KIND]) == 0
    said = capsys.readouterr().out
    assert "ok      it returns what was saved" in said
    assert "11 of 11 checks passed" in said
    assert KindStore.shelves["one"] == {bytes(KEY_BYTES): old}


@pytest.mark.loop_step_ms(30)
def test_the_command_fails_a_store_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", FORGETFUL, "--object-max", "1"]) == 1
    said = capsys.readouterr().out
    assert "FAILED  it returns what was saved" in said
    assert "ok      it takes empty batches" in said
    assert main(["store", "check", "nowhere:Store"]) == 2
