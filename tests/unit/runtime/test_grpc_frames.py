"""What is put together on one side is taken apart on the other, whatever the sizes; and what is no message is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from penstock.runtime.channel import ChannelStatistics, LandingSlot, Piece
from penstock.runtime.channel_landings import BEGUN_MAX, Landings
from penstock.runtime.grpc_frames import (
    HEAD_BYTES,
    PART_BYTES,
    PARTS_MAX,
    Malformed,
    Part,
    Pieces,
    Word,
    gone,
    parts_of,
    show,
    shown,
    token_of,
)

TOKEN = bytes(range(16))


def pieces_of(sizes: list[int]) -> list[Piece]:
    payloads = [bytes([number % 251 + 1]) * size for number, size in enumerate(sizes)]
    return [
        Piece(number, number % 3, 7 * number, memoryview(payload), None)
        for number, payload in enumerate(payloads)
    ]


@given(sizes=some.lists(some.integers(0, 20_000), max_size=40), chunk=some.integers(4096, 16_384))
def test_pieces_cut_into_messages_are_the_same_pieces(sizes: list[int], chunk: int) -> None:
    sent, left = pieces_of(sizes), Pieces(TOKEN, pieces_of(sizes), chunk)
    payloads: dict[int, bytearray] = {}
    whole = whole_bytes = 0
    while not left.is_empty():
        raw, pieces, size = left.take()
        whole, whole_bytes = whole + pieces, whole_bytes + size
        assert raw[0] == Word.PIECES
        assert len(raw) <= HEAD_BYTES + chunk + PART_BYTES
        assert token_of(raw) == TOKEN
        for part in parts_of(raw):
            piece = sent[part.number]
            assert (part.slot, part.offset, part.total) == (
                piece.slot,
                piece.offset,
                len(piece.payload),
            )
            so_far = payloads.setdefault(part.number, bytearray())
            assert part.at == len(so_far)
            so_far += part.payload
    assert [payloads[one.number] for one in sent] == [bytes(one.payload) for one in sent]
    assert (whole, whole_bytes) == (len(sizes), sum(sizes))


def test_a_message_has_a_bounded_number_of_parts() -> None:
    left = Pieces(TOKEN, pieces_of([1] * (PARTS_MAX + 1)), 1 << 20)
    assert len(parts_of(left.take()[0])) == PARTS_MAX
    assert len(parts_of(left.take()[0])) == 1
    assert left.is_empty()


def test_what_is_no_message_is_told() -> None:
    """A15: a stranger's bytes end the connection, and nothing else."""
    good = Pieces(TOKEN, pieces_of([10]), 4096).take()[0]
    head = good[:HEAD_BYTES]
    for bad in (good[:-1], good + b"x", head + b"x" * (PART_BYTES - 1)):
        with pytest.raises(Malformed):
            parts_of(bad)
    with pytest.raises(Malformed, match="more than"):
        parts_of(head + good[HEAD_BYTES:] * (PARTS_MAX + 1))
    with pytest.raises(Malformed, match="no landing"):
        token_of(gone(TOKEN)[:-1])
    for bad in (b"", show(bytes(31)), show(bytes(33)), b"\x00" + bytes(32)):
        with pytest.raises(Malformed, match="shows no secret"):
            shown(bad)
    assert shown(show(bytes(32))) == bytes(32)


def part(
    number: int, at: int, payload: bytes, *, total: int = 4, offset: int = 0, slot: int = 0
) -> Part:
    return Part(number, slot, offset, total, at, memoryview(payload))


def test_a_piece_is_whole_when_all_of_it_was_written_and_not_before() -> None:
    """A11: parts that leave a gap, come twice or elsewhere, make no piece whole."""
    statistics = ChannelStatistics()
    landings = Landings(statistics)
    memory, arrived = bytearray(8), list[int]()
    landing = landings.open([LandingSlot(memoryview(memory), None)], arrived.extend)
    landings.write(landing, [part(1, 0, b"ab"), part(2, 0, b"ef", offset=4)])
    assert arrived == []
    for wrong in (
        part(1, 3, b"d"),
        part(1, 0, b"ab"),
        part(1, 2, b"cd", offset=1),
        part(1, 2, b"cd", total=5),
        part(3, 1, b"xyz"),
    ):
        with pytest.raises(Malformed):
            landings.write(landing, [wrong])
    assert arrived == []
    landings.write(landing, [part(2, 2, b"gh", offset=4), part(1, 2, b"cd")])
    assert (arrived, bytes(memory)) == ([2, 1], b"abcdefgh")
    assert statistics == ChannelStatistics(bytes_received=8, pieces_received=2)


def test_pieces_that_are_begun_and_never_end_are_bounded() -> None:
    """C10"""
    landings = Landings(ChannelStatistics())
    landing = landings.open([LandingSlot(memoryview(bytearray(4)), None)], lambda _: None)
    landings.write(landing, [part(number, 0, b"a") for number in range(BEGUN_MAX)])
    with pytest.raises(Malformed, match="none of them ends"):
        landings.write(landing, [part(BEGUN_MAX, 0, b"a")])


def test_what_is_cut_is_refused_once() -> None:
    """Of a piece beyond its slot, whose parts come one by one, one refusal is counted."""
    statistics = ChannelStatistics()
    landings = Landings(statistics)
    landing = landings.open([LandingSlot(memoryview(bytearray(3)), None)], lambda _: None)
    landings.write(landing, [part(1, 0, b"ab"), part(1, 2, b"cd"), part(2, 0, b"ab", slot=1)])
    assert statistics.pieces_refused == 2
