"""What is asked of a peer in one read, within what it takes on; what has come of it; whom to trust."""

from __future__ import annotations

import pytest

from penstock.actors.api.peers import LinkLimits, ReadTold
from penstock.actors.api.store import Target
from penstock.actors.core.breaker import BreakerLimits
from penstock.actors.core.peer_trust import TELLING, PeerTrust
from penstock.actors.stores.peer_config import PeerStoreConfig
from penstock.actors.stores.peer_reading import OBJECT, PeerLoad, PeerPart, header_length
from penstock.actors.stores.store import Fate, Wanted
from penstock.runtime.config import read_record
from penstock.runtime.errors import ConfigError
from penstock.runtime.units import MIB

PAGE = 4096
ROOMY = LinkLimits(8, 1000, 1 << 30, 4 * MIB)
NAMESPACE = b"n" * 32


def wanted(chunk: int, slot: int = 0, *, runs: int = 2, namespace: bytes = NAMESPACE) -> Wanted:
    key = chunk.to_bytes(4, "big") * 8
    payload, header = memoryview(bytearray(PAGE)), memoryview(bytearray(PAGE))
    target = Target(b"k" * 32, 0, namespace, PAGE - 7, runs, payload, None, key, slot)
    return Wanted(b"k" * 32, 0, header, payload, None, target)


def test_chunks_are_asked_for_once_with_their_slots() -> None:
    load = PeerLoad([wanted(5, 0), wanted(5, 1), wanted(9, 1)])
    part = PeerPart(load, [0, 1])
    ask = part.ask(b"grant")
    assert ask.chunk_keys == b"".join(load.chunks)
    assert len(load.chunks) == 2
    assert [*OBJECT.iter_unpack(ask.objects)] == [(0, 0), (0, 1), (1, 1)]
    assert ask.slot_bytes == 3 * PAGE


def test_what_says_no_chunk_or_is_of_another_namespace_is_missing() -> None:
    nameless = wanted(1)
    nameless.target = None
    load = PeerLoad([wanted(1), nameless, wanted(2, namespace=b"m" * 32)])
    assert len(load.chunks) == 1
    assert [one.fate for one in load.outcomes] == [Fate.MISSING] * 3


@pytest.mark.parametrize(
    ("limits", "parts"),
    [
        (ROOMY, [[0, 1, 2, 3]]),
        (LinkLimits(8, 2, 1 << 30, 4 * MIB), [[0], [1], [2], [3]]),
        (LinkLimits(8, 5, 1 << 30, 4 * MIB), [[0, 1], [2, 3]]),
        (LinkLimits(8, 1000, 4 * PAGE, 4 * MIB), [[0, 1], [2, 3]]),
        (LinkLimits(8, 1000, PAGE, 4 * MIB), [[0], [1], [2], [3]]),
        (LinkLimits(8, 1000, 1 << 30, 64 * 1024), [[0], [1], [2], [3]]),
    ],
)
def test_reads_keep_to_what_the_peer_takes_on(limits: LinkLimits, parts: list[list[int]]) -> None:
    """The last of them by the bytes of the answer: headers of 1,000 runs each."""
    runs = 1000 if limits.message_bytes_max < MIB else 2
    load = PeerLoad([wanted(chunk, slot, runs=runs) for chunk in range(4) for slot in range(2)])
    assert [*load.cut(range(4), limits)] == parts


def test_what_has_come_is_whole_and_what_has_not_is_left() -> None:
    load = PeerLoad([wanted(0), wanted(1), wanted(2), wanted(3)])
    part = PeerPart(load, [0, 1, 2, 3])
    header = b"h" * header_length(2)
    told = ReadTold(b"\1\1\0\1", (header, header, b"short"))
    assert load.take(part.places, told, {0, 3}) == 1
    fates = [one.fate for one in load.outcomes]
    assert fates == [Fate.DONE, Fate.MISSING, Fate.MISSING, Fate.REFUSED]
    assert bytes(load.wanted[0].header[: len(header)]) == header
    assert [load.is_open(chunk) for chunk in range(4)] == [False, True, True, False]
    assert sum([one.logical_bytes for one in part.done()]) == PAGE - 7


def test_headers_that_are_missing_are_no_headers() -> None:
    load = PeerLoad([wanted(0)])
    assert load.take([0], ReadTold(b"\1", ()), {0}) == 0
    assert load.outcomes[0].fate is Fate.REFUSED


def trust() -> PeerTrust:
    limits = BreakerLimits(2, 10.0, 1.0, 4.0)
    return PeerTrust(limits, patience_s_min=0.01, patience_s_max=0.5, peers_max=2)


def test_a_peer_that_fails_is_left_alone_and_tried_again() -> None:
    """B14: after open_s once; answered, it is asked as before."""
    peers = trust()
    for _ in range(2):
        attempt = peers.admit("a", 0.0)
        assert attempt is not None
        peers.failed("a", attempt, 0.0, "it failed")
    assert not peers.is_trusted("a", 0.5)
    assert peers.admit("a", 0.5) is None
    assert peers.is_trusted("b", 0.5)
    assert peers.is_trusted("a", 1.0)
    probe = peers.admit("a", 1.0)
    assert probe is not None
    assert peers.admit("a", 1.0) is None
    peers.answered("a", probe, 1.1)
    assert peers.is_trusted("a", 1.1)


def test_patience_is_three_times_what_a_peer_nearly_always_takes() -> None:
    peers = trust()
    assert peers.patience_s("a") == 0.5
    for _ in range(TELLING):
        peers.waited("a", 0.02)
    assert peers.patience_s("a") == pytest.approx(0.06)
    for _ in range(TELLING):
        peers.waited("b", 0.000_1)
    assert peers.patience_s("b") == 0.01
    peers.waited("c", 1.0)
    assert peers.patience_s("a") == 0.5, "of too many peers those are forgotten that were silent"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"write": "write_through"}, "write"),
        ({"capacity": "1GiB"}, "capacity"),
        ({"read_within": "6s"}, "load_within"),
        ({"transforms": [{"type": "zstd"}]}, "transforms"),
    ],
)
def test_a_peer_store_refuses_what_it_cannot_do(given: dict[str, object], problem: str) -> None:
    """E4."""
    with pytest.raises(ConfigError, match=problem):
        read_record(
            PeerStoreConfig, {"name": "peers", "type": "peer", **given}, path="stores.peers"
        )
