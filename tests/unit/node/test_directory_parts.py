"""What a directory keeps of its peers and tells of itself, step by step: refusals, bounds, large summaries."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.actors.api import directory
from penstock.actors.api.directory import UPDATE_BYTES_MAX, Heard, PeerUpdate, WatchId
from penstock.actors.cluster_config import ClusterConfig
from penstock.actors.config import L1Config, L1Mode, NodeConfig
from penstock.actors.core.summary import NAME_BYTES, NAMES_MAX, Changes, Part, Update
from penstock.actors.directory_codec import MalformedUpdate, decode, encode
from penstock.actors.directory_config import DirectoryConfig
from penstock.actors.directory_own import OwnSummary
from penstock.actors.directory_peers import PeerSummaries
from penstock.actors.l1_making import changes_max
from penstock.actors.stores.file_config import FileConfig
from penstock.protos import directory_pb2
from penstock.runtime.units import ByteSize

EPOCH = b"e" * 16


def keys(count: int, name: str = "p") -> bytes:
    return b"".join(hashlib.sha256(f"{name}/{at}".encode()).digest() for at in range(count))


def own_of(*chunks: bytes) -> OwnSummary:
    own = OwnSummary(backlog_bytes_max=1 << 20, watchers_max=4)
    own.begin(sum(map(len, chunks)) // 32)
    for step in chunks:
        assert own.learn(step)
    own.known()
    return own


def updates(own: OwnSummary, watch: WatchId) -> list[bytes]:
    """All that there is for this watch."""
    got = []
    while (update := own.next_update(watch)) is not None:
        got.append(update)
        own.validate()
    return got


class Peers(PeerSummaries):
    def __init__(self, *, bytes_max: int = 1 << 20, peers_max: int = 4) -> None:
        super().__init__(bytes_max=bytes_max, peers_max=peers_max)

    def tell(self, node_id: str, *given: bytes, epoch: bytes = EPOCH) -> list[Heard]:
        heard = [self.hear(PeerUpdate(node_id, epoch, one)) for one in given]
        self.validate()
        return heard


@pytest.mark.parametrize(
    "update",
    [
        Part(log=2**64 - 1, sequence=2**63, part=3, parts=9, filter=b"filter"),
        Changes(log=0, first=1, gone=bytes(NAME_BYTES), added=bytes(3 * NAME_BYTES)),
        Changes(log=7, first=2**62, gone=b"", added=b""),
    ],
)
def test_an_update_is_the_same_after_the_wire(update: Update) -> None:
    assert decode(encode(update)) == update


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\xff\xff\xff",
        os.urandom(64),
        directory_pb2.DirectoryUpdate(log=1).SerializeToString(),
        encode(Changes(1, 1, b"", bytes(NAME_BYTES + 1))),
        encode(Changes(1, 1, bytes(3), b"")),
        encode(Changes(1, 1, bytes(NAME_BYTES), bytes(NAMES_MAX * NAME_BYTES))),  # a long step
        encode(Part(1, 1, 0, 1, bytes(UPDATE_BYTES_MAX))),
    ],
)
def test_what_is_no_update_is_refused_and_the_peer_is_asked_anew(wrong: bytes) -> None:
    with pytest.raises(MalformedUpdate):
        decode(wrong)
    peers = Peers()
    own = own_of(keys(5))
    assert peers.tell("a", *updates(own, own.watch("w"))) == [Heard.KEPT]
    assert peers.tell("a", wrong) == [Heard.RESYNC]
    assert peers.promised(keys(5), 0) == ()
    assert (peers.resyncs, peers.bytes) == (1, 0)


@pytest.mark.parametrize("at", [0, 5, 9, 17, 25, 40, -1])
def test_a_damaged_part_is_refused(at: int) -> None:
    own = own_of(keys(5))
    (update,) = updates(own, own.watch("w"))
    part = decode(update)
    assert isinstance(part, Part)
    damaged = bytearray(part.filter)
    damaged[at] ^= 1
    peers = Peers()
    assert peers.tell("a", encode(replace(part, filter=bytes(damaged)))) == [Heard.RESYNC]
    assert peers.tell("a", update) == [Heard.KEPT]
    assert peers.promised(keys(6), 1) == (("a", 4),)


def test_changes_that_do_not_fit_the_filter_have_the_peer_asked_anew() -> None:
    own = own_of(keys(5))
    peers = Peers()
    peers.tell("a", *updates(own, own.watch("w")))
    part = decode(updates(own, own.watch("w"))[0])
    foreign = Changes(part.log, 2, gone=bytes(NAME_BYTES), added=b"")
    assert peers.tell("a", encode(foreign)) == [Heard.RESYNC]
    assert peers.promised(keys(5), 0) == ()


def test_parts_that_say_too_few_of_themselves_are_refused() -> None:
    """A snapshot of one part that is said to be of two: the filter is whole before all of it is there."""
    own = own_of(keys(5))
    part = decode(updates(own, own.watch("w"))[0])
    assert isinstance(part, Part)
    peers = Peers()
    assert peers.tell("a", encode(replace(part, parts=2))) == [Heard.RESYNC]
    assert peers.bytes == 0


def test_another_epoch_begins_with_nothing() -> None:
    own = own_of(keys(5))
    peers = Peers()
    peers.tell("a", *updates(own, own.watch("w")))
    assert peers.promised(keys(5), 0) == (("a", 5),)
    still = own.still(own.watch("w"))
    assert peers.tell("a", still) == [Heard.KEPT]
    assert peers.tell("a", still, epoch=b"f" * 16) == [Heard.RESYNC]
    assert peers.promised(keys(5), 0) == ()


def test_more_peers_than_may_be_are_not_kept() -> None:
    own = own_of(keys(5))
    (update,) = updates(own, own.watch("w"))
    peers = Peers(peers_max=2)
    assert [peers.tell(name, update)[0] for name in "abcd"] == [Heard.KEPT] * 2 + [
        Heard.NO_ROOM
    ] * 2
    assert peers.dropped == ("c", "d")
    peers.tell("e", update)
    assert (peers.dropped, peers.refused) == (("c", "d"), 3), "no more are named than may be kept"
    peers.gone("a")
    assert peers.tell("d", update) == [Heard.KEPT]
    assert peers.dropped == ("c",)
    assert {one.node_id for one in peers.promised(keys(5), 0)} == {"b", "d"}
    peers.gone("c")
    assert peers.dropped == ()


def test_bytes_of_all_peers_are_bounded_and_one_that_outgrows_them_is_dropped() -> None:
    own = own_of(keys(5))
    (update,) = updates(own, own.watch("w"))
    peers = Peers(bytes_max=1000)
    assert [peers.tell(name, update)[0] for name in "abc"] == [
        Heard.KEPT,
        Heard.KEPT,
        Heard.NO_ROOM,
    ]
    assert peers.bytes <= 1000
    large = own_of(keys(1000))
    assert peers.tell("a", *updates(large, large.watch("w"))) == [Heard.NO_ROOM]
    assert peers.dropped == ("a", "c")
    assert [one.node_id for one in peers.measure()] == ["b"]


def test_a_large_summary_goes_in_parts_and_its_copy_is_let_go() -> None:
    own = own_of(*(keys(100_000, f"p{step}") for step in range(8)))
    size = own.summary_bytes
    assert size <= 2 * own.keys
    watch, other = own.watch("w"), own.watch("o")
    first = own.next_update(watch)
    assert first is not None
    assert len(first) <= UPDATE_BYTES_MAX
    assert own.summary_bytes == 2 * size
    came, went = keys(2, "new"), keys(3, "p0")
    assert own.change(came, went)
    got = [first, *updates(own, watch)]
    assert len(got) == 3
    peers = Peers(bytes_max=1 << 22)
    assert peers.tell("a", *got) == [Heard.KEPT] * 3
    assert own.next_update(other) is not None
    own.unwatch(other)
    own.validate()
    assert own.summary_bytes == size, "nobody is being sent it"
    assert peers.keys == own.keys == 799_999
    assert peers.promised(came, 0) == (("a", 2),)
    assert peers.promised(keys(4, "p0"), 3) == (("a", 1),)


def test_a_peer_watches_once_and_a_new_watch_ends_the_former() -> None:
    own = own_of(keys(5))
    former = own.watch("a")
    others = [own.watch(name) for name in "bcd"]
    assert updates(own, former)
    watch = own.watch("a")
    with pytest.raises(directory.WatchOver):
        own.next_update(former)
    own.unwatch(former)
    assert len(updates(own, watch)) == 1
    with pytest.raises(directory.TooManyWatches):
        own.watch("e")
    own.unwatch(others[0])
    assert own.watch("e") > watch
    own.validate()


def test_a_walk_that_finds_more_than_it_was_told_begins_anew_with_more_room() -> None:
    own = OwnSummary(backlog_bytes_max=1 << 20, watchers_max=4)
    steps = [keys(100, f"p{step}") for step in range(20)]
    walks = 0
    while not own.is_known:
        own.begin(10)
        walks += 1
        if all(own.learn(step) for step in steps):
            own.known()
    assert own.keys == 2000
    assert 1 < walks < 16
    watch = own.watch("w")
    with pytest.raises(directory.WatchOver):
        own.still(WatchId(watch + 1))
    own.forget()
    assert own.next_update(watch) is None
    assert own.still(watch) == b""


def test_only_a_node_with_peers_whose_lookups_hit_l1_keeps_changes_for_them() -> None:
    cluster = ClusterConfig(node_id="a", listen="127.0.0.1:7700")
    staging = L1Config(mode=L1Mode.STAGING)
    disk = FileConfig(name="disk", paths=("/disk",), capacity=ByteSize(1 << 30))
    assert changes_max(NodeConfig()) == 0
    assert changes_max(NodeConfig(cluster=cluster)) == cluster.directory.changes_max > 0
    assert changes_max(NodeConfig(cluster=cluster, l1=staging, stores=(disk,))) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"bytes_max": 1000},
        {"backlog_max": 1000},
        {"pace": 0.0},
        {"retry": 1e9},
        {"ask_within": 0.0},
    ],
)
def test_limits_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DirectoryConfig(**wrong)  # type: ignore[arg-type]


OWN = own_of(keys(40))
SENT = updates(OWN, OWN.watch("w"))
for _step in range(4):
    OWN.change(keys(3, f"new{_step}"), b"")
    SENT += updates(OWN, WatchId(1))


@settings(max_examples=300, deadline=None)
@given(
    picks=st.lists(st.integers(0, len(SENT) - 1), min_size=1, max_size=6),
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 64),
)
def test_whatever_a_peer_sends_is_kept_or_refused_and_nothing_breaks(
    picks: list[int], damage: list[tuple[int, int]], cut: int
) -> None:
    """Updates in any order, the last of them damaged or cut: no bug of ours, no byte that is not counted."""
    peers = Peers(bytes_max=2000)
    for pick in picks[:-1]:
        peers.tell("a", SENT[pick])
    update = bytearray(SENT[picks[-1]])
    for at, value in damage:
        update[at % len(update)] = value
    peers.tell("a", bytes(update[: len(update) - cut]))
    peers.tell("b", SENT[0])
    assert {one.node_id for one in peers.promised(keys(40), 0)} <= {"a", "b"}
    peers.gone("a")
    assert {one.node_id for one in peers.promised(keys(40), 0)} == {"b"}


def test_many_changes_at_once_are_told_in_steps_that_a_peer_takes() -> None:
    """C10: seen to fail with all of them in one update, of which a peer took up to 130,000 in one step of 0.7 s."""
    there, new = keys(6000), keys(7000, "new")
    own, peers = own_of(there, keys(4000, "more")), Peers()
    watch = own.watch("b")
    assert set(peers.tell("a", *updates(own, watch))) == {Heard.KEPT}
    assert own.change(new, there[: 5000 * 32])
    told = [decode(one) for one in updates(own, watch)]
    assert all(isinstance(one, Changes) and one.end - one.first <= NAMES_MAX for one in told)
    assert set(peers.tell("a", *map(encode, told))) == {Heard.KEPT}
    assert peers.keys == own.keys == 12_000
    assert peers.promised(new, 0)[0].chunks == 7000
