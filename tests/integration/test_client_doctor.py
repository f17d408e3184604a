"""E1: what two sessions record of themselves, and what `penstock doctor keys` makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.nodes import local_node, served_node
from support.small_model import spec

from penstock.actors.cli.main import main
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import Client, ClientConfig, Start
from penstock.actors.engine.errors import NodeAway
from penstock.actors.engine.key_record import write_key_record
from penstock.actors.keys import chunk_keys
from penstock.runtime.errors import CallerError

pytestmark = [pytest.mark.with_stores_too, pytest.mark.anyio]

Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Writes two records and has the command compare the files."""

    def compare(ours: Mapping[str, object], theirs: Mapping[str, object]) -> tuple[int, str]:
        paths = [tmp_path / "ours.json", tmp_path / "theirs.json"]
        for path, record in zip(paths, (ours, theirs), strict=True):
            write_key_record(path, record)
            assert path.stat().st_mode & 0o777 == 0o600  # it holds prompts
        status = main(["doctor", "keys", *map(str, paths)])
        return status, capsys.readouterr().out

    return compare


async def test_sessions_that_differ_are_told_where(doctor: Doctor) -> None:
    async with (
        local_node() as node,
        node.attach(spec()) as one,
        node.attach(spec()) as same,
        node.attach(spec(dtype="float16")) as other,
    ):
        chunk = one.chunk_tokens
        tokens = list(range(chunk * 3 + 1))
        status, said = doctor(one.record(tokens), same.record(tokens))
        assert (status, said) == (0, "the chains are equal\n  all 3 chunks are the same\n")

        status, said = doctor(one.record(tokens), other.record(tokens))
        assert status == 1
        assert "namespace.groups[0].dtype: 'float32' against 'float16'" in said

        changed = [*tokens]
        changed[chunk + 2] = 77_777
        status, said = doctor(one.record(tokens), same.record(changed))
        assert status == 1
        where = f"chunk 1 differs at token {chunk + 2}: {chunk + 2} in A, 77777 in B"
        assert f"the first 1 chunks are the same; {where}" in said

        status, said = doctor(one.record(tokens), same.record(tokens, salt=b"tenant"))
        assert (status, "salt: they are two tenants'" in said) == (1, True)
        status, said = doctor(
            one.record(tokens, extras={2: b"cat"}), same.record(tokens, extras={2: b"dog"})
        )
        assert (status, "chunk 2 has the same tokens and another extra" in said) == (1, True)


async def test_a_record_holds_the_keys_that_were_sent(doctor: Doctor) -> None:
    """The record is of what the node is asked, and not of what should have been."""
    async with local_node() as node, node.attach(spec()) as client:
        tokens = list(range(client.chunk_tokens * 2))
        given = {"salt": b"s", "adapter": b"a"}
        record = client.record(tokens, **given)
        space = client._link.current().keyspace
        sent = chunk_keys(space.root(b"a", b"s"), tokens, client.chunk_tokens)
        assert "".join(record["keys"]) == sent.hex()  # type: ignore[arg-type]
        assert json.loads(json.dumps(record)) == record
        by_keys = client.record(keys=sent, **given)
        assert by_keys.keys() == {"namespace", "keys"}
        assert doctor(record, by_keys)[0] == 0
        with pytest.raises(CallerError, match="salt"):
            client.record(tokens, salt="s")  # type: ignore[arg-type]
        assert (await client.stat()).tickets == 0


async def test_without_a_node_there_is_nothing_to_record(tmp_path: Path) -> None:
    """The node says how many tokens a chunk has."""
    config = ClientConfig(address=f"unix://{tmp_path}/none.sock", start=Start.DETACHED)
    async with Client.connect(config, spec()) as client:
        with pytest.raises(NodeAway):
            client.record([1, 2, 3])


def test_the_blocking_client_records_too(tmp_path: Path, doctor: Doctor) -> None:
    with served_node(tmp_path / "state") as node:
        config = ClientConfig(address=node.address, attach_within_s=5.0)
        with BlockingClient.connect(config, spec()) as client:
            record = client.record(list(range(64))).result(5)
    assert doctor(record, record)[0] == 0
