"""Prompts on the command line: a key record names its own namespace, bare keys need one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.actors.cli.doctor import UnreadableRecord
from penstock.actors.cli.prompt_file import PromptKeys, UnreadablePrompt, read_prompt
from penstock.actors.core.namespace import Attention, Group, GroupShard, Namespace
from penstock.actors.core.plain import to_plain
from penstock.actors.keys import chunk_keys
from penstock.runtime.errors import ConfigError

GROUP = Group(("l.0",), Attention.FULL, 0, 2, 8, 2, "bfloat16", (GroupShard(64, 0, 2),))
BASE = Namespace(
    weights="org/model@" + "ab" * 20,
    model_config_digest=bytes(32),
    chunk_tokens=4,
    groups=(GROUP,),
)
DIGEST = "0a" * 32
KEYS = ("1b" * 32, "2C" * 32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompt"


def test_a_records_tokens_become_keys_of_its_tenant_in_the_namespace_that_engines_attach_with(
    file: Path,
) -> None:
    own = replace(BASE, salt=b"tenant", adapter=bytes(32))
    tokens = [*range(11)]
    file.write_text(json.dumps({"namespace": to_plain(own), "tokens": tokens}))
    found = read_prompt(file, namespace="")
    assert found == PromptKeys(BASE.digest(), chunk_keys(own.digest(), tokens, 4), b"tenant")
    assert found.chunks == 2


@pytest.mark.parametrize("between", ["\n", "", " \n\t"])
def test_keys_are_packed(file: Path, between: str) -> None:
    file.write_text(between.join(KEYS) + "\n")
    found = read_prompt(file, namespace=DIGEST)
    assert found == PromptKeys(bytes.fromhex(DIGEST), bytes.fromhex("".join(KEYS)))


@pytest.mark.parametrize("text", ["", "\n", "1b", "1b" * 33, "zz" * 32, "\u0661" * 64])
def test_what_is_no_key_is_refused_by_the_name_of_the_file(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UnreadablePrompt, match=str(file)):
        read_prompt(file, namespace=DIGEST)


@pytest.mark.parametrize("namespace", ["", "0a", "zz" * 32])
def test_keys_need_the_digest_of_their_namespace(file: Path, namespace: str) -> None:
    file.write_text(KEYS[0])
    with pytest.raises(ConfigError, match="--namespace: give 64 hexadecimal digits"):
        read_prompt(file, namespace=namespace)


def test_a_record_says_its_namespace_itself(file: Path) -> None:
    file.write_text(json.dumps({"namespace": to_plain(BASE), "tokens": []}))
    with pytest.raises(ConfigError, match="--namespace: a record says it itself"):
        read_prompt(file, namespace=DIGEST)


def test_files_that_cannot_be_read_are_named(file: Path) -> None:
    with pytest.raises(UnreadablePrompt, match="No such file"):
        read_prompt(file, namespace=DIGEST)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UnreadablePrompt, match="is no text"):
        read_prompt(file, namespace=DIGEST)
    file.write_text("{")
    with pytest.raises(UnreadableRecord, match="is no JSON"):
        read_prompt(file, namespace="")
