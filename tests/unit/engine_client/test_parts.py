"""The client's small parts: outbox, prompt memory, key space, configuration, declarations."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.core.namespace import Attention, Group, GroupShard
from penstock.actors.engine.config import Backoff, ClientConfig, ClientTls
from penstock.actors.engine.keyspace import Prompt, pack_keys, shared_units
from penstock.actors.engine.outbox import Lane, Outbox, Request
from penstock.actors.engine.prompt_memory import ENTRY_BYTES, PromptMemory
from penstock.actors.engine.spec import EngineSpec, GroupSpec, Place, plain_model
from penstock.runtime.errors import CallerError, ConfigError, DeadlineExceeded
from penstock.runtime.security import Secret

INSTANCE = b"i" * 16
ROOT = Path(__file__).resolve().parents[3]


def plain(**changes: object) -> EngineSpec:
    given: dict = {
        "weights": "m@" + "0" * 40,
        "model_config_digest": bytes(32),
        "layers": 2,
        "kv_heads": 8,
        "head_size": 64,
        "dtype": "bfloat16",
        "block_tokens": 16,
        "engine_instance": INSTANCE,
    }
    return plain_model(**{**given, **changes})


# The outbox.


def queued(number: int, lane: Lane) -> Request:
    return Request(number, b"payload", lane)


@pytest.mark.anyio
async def test_last_words_go_first_and_what_was_given_up_never() -> None:
    outbox = Outbox(outgoing_max=3)
    for number in (1, 2):
        await outbox.wait_room(within=1)
        outbox.put(queued(number, Lane.ORDINARY))
    outbox.put(queued(3, Lane.LAST_WORD))
    given_up = queued(4, Lane.LAST_WORD)
    given_up.payload = None
    outbox.put(given_up)
    assert len(outbox) == 4
    assert [outbox.take().correlation_id for _ in range(3)] == [3, 1, 2]
    assert outbox.take() is None


@pytest.mark.anyio
async def test_a_full_outbox_waits_for_room_and_no_longer_than_told() -> None:
    outbox = Outbox(outgoing_max=1)
    await outbox.wait_room(within=1)
    with pytest.raises(DeadlineExceeded, match="1 requests wait"):
        await outbox.wait_room(within=0.01)
    outbox.put(queued(1, Lane.LAST_WORD))  # a last word needs no room
    waited = []

    async def wait() -> None:
        await outbox.wait_room(within=5)
        waited.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        outbox.leave_room()
    assert waited == [True]


# Prompt memory.


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 40)), max_size=40))
def test_prompt_memory_keeps_to_its_bound(steps: list[tuple[str, int]]) -> None:
    bytes_max = 4 * ENTRY_BYTES
    memory, session = PromptMemory(bytes_max=bytes_max), b"one"
    kept: dict[str, int] = {}
    for request_id, chunks in steps:
        memory.remember(request_id, Prompt(bytes(32) * chunks), session, 1)
        kept.pop(request_id, None)
        size = ENTRY_BYTES + 32 * chunks
        if size <= bytes_max:
            kept[request_id] = size
            while sum(kept.values()) > bytes_max:
                del kept[next(iter(kept))]
        assert memory.bytes_used == sum(kept.values()) <= bytes_max
        assert {name for name in "abcd" if memory.recall(name)} == set(kept)


def test_a_delta_is_only_for_the_session_that_knows_its_base() -> None:
    memory, session = PromptMemory(bytes_max=1 << 20), b"one"
    prompt = Prompt(b"a" * 64, salt=b"s")
    memory.remember("r", prompt, session, 7)
    grown = replace(prompt, keys=b"a" * 64 + b"b" * 32)
    delta = memory.message("r", grown, session).delta
    assert (delta.base, delta.base_chunks, delta.keys) == (7, 2, b"b" * 32)
    for message in (
        memory.message("r", grown, b"another"),
        memory.message("other", grown, session),
        memory.message("r", replace(grown, salt=b"t"), session),
        memory.message("r", replace(grown, keys=b"x" * 96), session),
    ):
        assert message.WhichOneof("form") == "keys"


# Key space.


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(1, 5))
def test_shared_units_are_the_longest_equal_run(ours: bytes, theirs: bytes, unit: int) -> None:
    units_max = min(len(ours), len(theirs)) // unit
    shared = shared_units(ours, theirs, unit_bytes=unit, units_max=units_max)
    assert ours[: shared * unit] == theirs[: shared * unit]
    if shared < units_max:
        end = (shared + 1) * unit
        assert ours[:end] != theirs[:end]


@given(st.data())
def test_keys_made_with_a_known_prompt_are_those_made_without(data: st.DataObject) -> None:
    """A5: what is remembered may save work and never change a key."""
    space = plain().keyspace(4)
    tokens = st.lists(st.integers(0, 3), max_size=24)
    extras = st.dictionaries(st.integers(0, 1), st.sampled_from([b"x", b"y"]), max_size=2)

    def draw() -> dict:
        drawn = data.draw(tokens)
        return {
            "tokens": drawn,
            "salt": data.draw(st.sampled_from([b"", b"s"])),
            "extras": {k: v for k, v in data.draw(extras).items() if k < len(drawn) // 4},
        }

    known, given_ = space.prompt(**draw()), draw()
    assert space.prompt(**given_, known=known) == space.prompt(**given_)


def test_packed_keys_are_whole() -> None:
    assert pack_keys([b"a" * 32, b"b" * 32]) == b"a" * 32 + b"b" * 32
    with pytest.raises(CallerError, match="33 bytes"):
        pack_keys(bytes(33))


# Configuration.


def test_the_first_attempt_is_immediate_and_later_ones_are_bounded() -> None:
    """B10: with the defaults never more than half a second between two attempts."""
    backoff = Backoff()
    assert backoff.wait_s(0, 0.0) == 0
    waits = [backoff.wait_s(attempt, 0.0) for attempt in range(1, 200)]
    assert waits == sorted(waits)
    assert max(waits) == 0.5
    assert backoff.wait_s(3, 0.999) < backoff.wait_s(3, 0.0)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"address": ""}, "address"),
        ({"address": "unix:"}, "address"),
        ({"inflight_max": 0}, "inflight_max"),
        ({"request_within_s": -1}, "request_within_s"),
        ({"ticket_ms": -1}, "ticket_ms"),
        ({"tls": ClientTls()}, "tls"),
        ({"waiting_max": 0}, "waiting_max"),
        ({"token": "hush"}, "token"),
        ({"attach_within_s": math.inf}, "attach_within_s"),
        ({"ready_within_s": math.nan}, "ready_within_s"),
        ({"request_within_s": "1"}, "request_within_s"),
        ({"ticket_ms": 1.5}, "ticket_ms"),
        ({"lease_ms": 2**32}, "lease_ms"),
        ({"copy_threads": None}, "copy_threads"),
        ({"copies_max": True}, "copies_max"),
        ({"ticket_ms": False}, "ticket_ms"),
        ({"close_within_s": True}, "close_within_s"),
        ({"message_bytes_max": 2**31}, "message_bytes_max"),
        ({"prefill_tokens_per_s": -1}, "prefill_tokens_per_s"),
        ({"prefill_tokens_per_s": 1.5}, "prefill_tokens_per_s"),
    ],
)
def test_configuration_that_cannot_work_is_refused(changes: dict, path: str) -> None:
    """Seen to fail: a wait without an end was taken, and so was what no message of the contract can carry, of which
    each lookup raised ValueError or TypeError."""
    given = {"address": "unix:///tmp/penstock.sock", **changes}
    with pytest.raises(ConfigError) as refused:
        ClientConfig(**given)
    assert refused.value.path == path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"copies_max": 1.5}, "must be an integer, not 1.5"),
        ({"copies_max": True}, "must be an integer, not True"),
        ({"lease_ms": 2**32}, f"must be an integer of at most {2**32 - 1}, not {2**32}"),
        ({"lease_ms": "1"}, f"must be an integer of at most {2**32 - 1}, not '1'"),
    ],
)
def test_a_refused_number_is_told_its_bound_if_it_has_one(changes: dict, words: str) -> None:
    """Seen to fail: where there is no bound, "must be an integer of at most inf" was said, and True was taken."""
    with pytest.raises(ConfigError) as refused:
        ClientConfig(address="unix:///tmp/penstock.sock", **changes)
    assert refused.value.problem == words


def test_sizes_beyond_4_gib_are_sizes() -> None:
    """A20."""
    sizes = {"copy_bytes_max": 2**33, "prompt_memory_bytes_max": 2**33}
    assert ClientConfig(address="unix:///tmp/penstock.sock", **sizes).copy_bytes_max == 2**33


@pytest.mark.parametrize(
    "changes", [{"max_s": math.inf}, {"max_s": math.nan}, {"factor": math.inf}, {"first_s": 9.0}]
)
def test_a_backoff_has_an_end(changes: dict) -> None:
    with pytest.raises(ConfigError, match=r"backoff\."):
        Backoff(**changes)


@pytest.mark.parametrize("field", [one.name for one in fields(ClientConfig)])
def test_every_field_is_documented(field: str) -> None:
    """E4. Seen to fail: no page told of any of them."""
    assert f"`{field}`" in (ROOT / "docs" / "OPERATIONS.md").read_text()


def test_a_token_does_not_print() -> None:
    """D1."""
    config = ClientConfig(address="localhost:1", token=Secret("hush"))
    assert "hush" not in repr(config)


# Declarations.


def test_a_plain_model_is_cut_by_heads() -> None:
    spec = plain(tp_size=4, tp_rank=3)
    (group,) = spec.groups
    assert [shard.token_bytes for shard in group.group.shards] == [2 * 2 * 2 * 64 * 2] * 4
    assert spec.own_shards == (3,)
    assert spec.place == Place(tp_rank=3, tp_size=4)
    assert plain(tp_size=16, tp_rank=0).groups[0].group.shards[0].token_bytes == 2 * 2 * 64 * 2
    assert plain(tp_rank=None).own_shards == ()
    with pytest.raises(ConfigError, match="8 heads cannot be cut over 3 ranks"):
        plain(tp_size=3)
    with pytest.raises(ConfigError, match="dtype"):
        plain(dtype="int4")


def test_hello_says_what_the_spec_says() -> None:
    spec = plain(tp_size=2, tp_rank=1)
    hello = spec.hello(resume=b"r" * 32, epoch=b"e" * 16)
    assert (hello.resume, hello.epoch, list(hello.own_shards)) == (b"r" * 32, b"e" * 16, [1])
    assert (hello.shard.tp_rank, hello.shard.tp_size, hello.shard.pp_size) == (1, 2, 1)
    (group,) = hello.groups
    assert (group.block_tokens, len(group.layer_names), len(group.shards)) == (16, 2, 2)


def test_keys_differ_by_everything_that_makes_kv_differ() -> None:
    """A12, A21."""
    specs = [
        plain(),
        plain(dtype="float16"),
        plain(layers=3),
        plain(tp_size=2),
        plain(weights="m@" + "1" * 40),
        replace(plain(), generation=1),
    ]
    digests = {spec.keyspace(chunk).digest for spec in specs for chunk in (16, 32)}
    assert len(digests) == 2 * len(specs)
    assert plain(block_tokens=32).keyspace(32).digest == plain().keyspace(32).digest


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"engine_instance": b"short"}, "engine_instance"),
        ({"engine_instance": "i" * 16}, "engine_instance"),
        ({"own_shards": (0, 0)}, "own_shards"),
        ({"own_shards": (1,)}, "own_shards"),
        ({"groups": ()}, "groups"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes: dict, path: str) -> None:
    if path == "groups":
        changes = {"groups": plain().groups * 2}
    with pytest.raises(ConfigError) as refused:
        replace(plain(), **changes)
    assert refused.value.path == path


def test_rules_of_a_hybrid_model() -> None:
    def group(attention: Attention, *, window: int = 0, state: int = 0) -> Group:
        shard = GroupShard(token_bytes=0 if state else 64, state_bytes=state, runs=2)
        return Group(("l",), attention, window, 1, 16, 2 - bool(state), "float32", (shard,))

    groups = (
        GroupSpec("full", 16, group(Attention.MLA)),
        GroupSpec("window", 16, group(Attention.WINDOW, window=100)),
        GroupSpec("state", 64, group(Attention.RECURRENT, state=128)),
    )
    spec = replace(plain(), groups=groups, own_shards=(0, 0, 0))
    objects = spec.objects(64)
    assert [one.rule.window_chunks for one in objects] == [0, 2, 0]
    assert [one.object_bytes for one in objects] == [64 * 64, 64 * 64, 128]
    assert [one.is_state for one in objects] == [False, False, True]
    assert replace(spec, own_shards=()).objects(64) == ()
