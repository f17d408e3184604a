"""Two ends of a link that talk over a stream on virtual time: as long as both live, nobody is given up for silence."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from penstock.actors.api.peers import LinkLimits
from penstock.actors.api.types import Epoch
from penstock.actors.core.link_session import DialerSession, ListenerSession, Stage
from penstock.actors.core.link_words import Drawn, Lives, Me, Pace, Refusal, Terms
from penstock.actors.peer_talk import Talk
from penstock.runtime.sim_loop import simulate

ME, OTHER = Me("a", Epoch(b"a" * 16)), Me("b", Epoch(b"b" * 16))
BEAT_S = 0.1
HANDSHAKE_S = 5.0  # much longer than silence may last
BEAT = b"beat"


class Pipe:
    """One direction of a stream."""

    def __init__(self) -> None:
        self._raw: asyncio.Queue[bytes] = asyncio.Queue(64)

    async def read(self) -> bytes | None:
        return await self._raw.get()

    async def write(self, raw: bytes) -> None:
        await self._raw.put(raw)


@pytest.mark.parametrize("seed", range(4))
def test_a_link_lives_as_long_as_both_do(seed: int) -> None:
    """B11, C8: the heartbeats begin with the link, however long its handshake might have taken.

    Seen to fail: both slept until the time for the handshake was up, and then found each other silent.
    """

    async def main() -> None:
        terms = Terms((), Pace(BEAT_S, 3), LinkLimits(4, 100, 1 << 20, 1 << 20))
        drawn = Drawn(b"1" * 32, b"2" * 16, b"3" * 32)
        lives = [Lives(nodes_max=4), Lives(nodes_max=4)]
        listener = ListenerSession(OTHER, drawn, terms, lives[0], now=0, within_s=HANDSHAKE_S)
        dialer = DialerSession(ME, "b", b"n" * 32, (), lives[1], now=0, within_s=HANDSHAKE_S)
        there, back = Pipe(), Pipe()
        beats = {"a": 0, "b": 0}

        def heard_by_listener(raw: bytes) -> None:
            now = asyncio.get_running_loop().time()
            if raw != BEAT:
                hello = dialer.challenge(listener.challenge)
                assert hello is not None
                welcome = listener.hello(hello, names=None, now=now)
                assert welcome is not None
                dialer.welcomed(welcome, now)
                listening.say(b"welcome")
                return
            beats["a"] += 1
            listener.heartbeat(beats["a"], now)

        def heard_by_dialer(raw: bytes) -> None:
            if raw == BEAT:
                beats["b"] += 1
                dialer.heartbeat(beats["b"], asyncio.get_running_loop().time())

        dialling = Talk(
            dialer, read=back.read, write=there.write, heard=heard_by_dialer, beat=lambda _: BEAT
        )
        listening = Talk(
            listener,
            read=there.read,
            write=back.write,
            heard=heard_by_listener,
            beat=lambda _: BEAT,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dialling.run)
            tasks.start_soon(listening.run)
            await anyio.lowlevel.checkpoint()
            dialling.say(b"hello")
            await anyio.sleep(3 * HANDSHAKE_S)
            assert dialer.stage is listener.stage is Stage.LINKED
            assert min(beats.values()) > 2 * HANDSHAKE_S / BEAT_S
            dialling.end(Refusal.ENDED, "enough")
            listening.end(Refusal.ENDED, "enough")

    simulate(seed, main)
