"""What a node decides about its TCP data channels."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.runtime.security import TcpAddress
from penstock.runtime.units import KIB, MIB


@dataclass(frozen=True, slots=True)
class TcpChannelOptions:
    """What a node decides about its TCP channels. Sizes are in bytes, times in seconds."""

    listen: TcpAddress | None = None  # a literal address; port 0: any free one; None: it only dials
    # how others reach it, names too; port 0: the one it listens on; None: as it listens
    advertise: TcpAddress | None = None
    threads: int = 2  # that move bytes; 1 to 64
    streams: int = 1  # sockets of a connection that is dialled here; 1 to 16
    connections_max: int = 256  # dialled and accepted
    expected_max: int = 1024  # secrets at a time
    strangers_max: int = 64  # accepted, and not yet known; one more turns the oldest away
    hello_within: float = 2.0  # a stranger has so long to show its secret
    peer_timeout: float = 10.0  # bytes, or probes of an idle peer, unanswered for so long: lost
    part_bytes: int = (
        4 * MIB
    )  # pieces travel in such parts, from which sends and streams take turns
    receive_bytes: int = 4 * MIB  # read at a time; closing a landing waits for one such read
    socket_buffer_bytes: int = 0  # of each direction; 0: as the system tunes it
    queued_pieces_max: int = 4096  # of one connection, handed over and not yet sent; more wait
    queued_bytes_max: int = 256 * MIB  # the same; a larger piece goes alone
    arrivals_max: int = 64 * KIB  # whole pieces that the loop was not yet told of; then peers wait
    landings_max: int = 4096  # open ones of a connection
    pieces_max: int = MIB  # that one landing takes in its life; about 60 bytes each
