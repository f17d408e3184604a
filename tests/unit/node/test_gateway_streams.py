"""One engine stream: clients that do not read, progress, requests by name, the end."""

from __future__ import annotations

import asyncio
import struct
from types import SimpleNamespace
from typing import cast

import anyio
import pytest
from support.declarations import keys
from support.engine_stream import LIMITS, World, lookup, play, reserve
from support.fake_actors import (
    granted,
    never,
)

from penstock.actors.api import eviction, gateway, l1
from penstock.actors.api.errors import TicketOver
from penstock.actors.api.types import LeaseId, SessionId, TicketId
from penstock.actors.gateway import BEGUN_A_TURN, Gateway, Streams
from penstock.actors.gateway_session import Liveness
from penstock.protos import common_pb2 as wire
from penstock.protos import engine_pb2 as pb
from penstock.protos.engine_pb2 import SessionRequest
from penstock.runtime.call_places import CallPlaces, Places
from penstock.runtime.sim_loop import simulate

SEEDS = pytest.mark.parametrize("seed", range(5))
TICKET = TicketId(b"t" * 16)


def touch() -> pb.Touch:
    return pb.Touch(prompt=pb.Prompt(keys=keys(1)))


# Clients that do not read.


@SEEDS
def test_a_client_that_does_not_read_holds_up_itself_and_then_loses_its_stream(seed: int) -> None:
    """C10: replies are bounded, reading stops with them, and after `stall_s` the stream is given up.

    Seen to fail with a reader that does not look at the outgoing queue: it took all 100 requests.
    """

    async def scene(world: World) -> None:
        await world.stream.reply_to(1)
        world.stream.stop_reading()
        for number in range(2, 102):
            world.stream.send(SessionRequest(correlation_id=number, heartbeat=pb.Heartbeat()))
        await anyio.sleep(9.9)
        assert world.stream.unread >= 100 - LIMITS.outgoing_max - 2
        assert not world.ended.is_set()
        await world.ended.wait()
        assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.5)
        assert "read nothing for 10 s" in world.session.end_reason

    play(seed, scene)


@SEEDS
def test_a_client_that_reads_slowly_gets_everything(seed: int) -> None:
    async def scene(world: World) -> None:
        await world.stream.reply_to(1)
        for number in range(2, 42):
            world.stream.send(SessionRequest(correlation_id=number, touch=touch()))
        for _ in range(10):
            world.stream.stop_reading()
            await anyio.sleep(9)
            world.stream.go_on_reading()
            await anyio.sleep(0.01)
        numbers = [one.correlation_id for one in world.stream.got]
        assert numbers == list(range(1, 42))
        assert world.session.end_reason == ""

    play(seed, scene)


@SEEDS
def test_the_clock_of_a_stall_begins_with_the_write_that_stalls(seed: int) -> None:
    """C10: one timer watches over all writes of a stream; neither earlier ones nor silence use it up.

    Seen to fail with a timer that is not begun again for what is left: it ended the stream early.
    """

    async def scene(world: World) -> None:
        now = asyncio.get_running_loop().time
        await world.stream.reply_to(1)
        await anyio.sleep(100)
        await world.ask(2, touch=touch())
        await anyio.sleep(7)
        world.stream.stop_reading()
        stalls_at = now()
        world.stream.send(SessionRequest(correlation_id=3, touch=touch()))
        await world.ended.wait()
        assert now() - stalls_at == pytest.approx(10.0, abs=0.5)

    play(seed, scene)


# The order of reads and writes.


@SEEDS
def test_a_reply_is_on_its_way_before_the_next_request_is_read(seed: int) -> None:
    """An idle writer costs a reply no turn of the loop.

    Seen to fail with replies that always go through the queue: the next read came first.
    """

    async def scene(world: World) -> None:
        await world.stream.reply_to(1)
        for number in range(2, 5):
            await anyio.sleep(0.1)  # the writer has seen the end of its write
            await world.ask(number, touch=touch())
        await anyio.sleep(0.1)
        assert world.stream.calls == ["write", *["read", "write"] * 3, "read"]

    play(seed, scene)


@SEEDS
def test_there_is_one_write_at_a_time(seed: int) -> None:
    """Seen to fail with a reply that is written at once whatever the writer does."""

    async def scene(world: World) -> None:
        await world.stream.reply_to(1)
        for number in range(2, 32, 3):
            world.stream.stop_reading()
            for one in range(number, number + 3):
                world.stream.send(SessionRequest(correlation_id=one, touch=touch()))
            await anyio.sleep(0.1)
            world.stream.go_on_reading()
            await world.stream.reply_to(number)
        await world.stream.reply_to(31)
        assert [one.correlation_id for one in world.stream.got] == list(range(1, 32))
        assert world.stream.writes_at_once_max == 1

    play(seed, scene)


# Progress.


def moved(hit: int, promised: int, ticket: TicketId = TICKET) -> gateway.TicketMoved:
    return gateway.TicketMoved(SessionId(1), ticket, hit, promised)


@SEEDS
def test_progress_is_the_newest_state_and_comes_after_its_tickets_reply(seed: int) -> None:
    """DESIGN 8: level-triggered and coalesced; news of a ticket never overtakes the reply that names it.

    Seen to fail with `move` writing whatever it hears.
    """

    async def scene(world: World) -> None:
        world.session.move(moved(1, 4))  # the lookup is answered by L1, its reply not yet written
        world.l1.answers[l1.Lookup] = lambda _: l1.Hit(TICKET, 0, 4)
        reply = await world.ask(2, lookup=lookup(4))
        assert not reply.lookup.final
        await anyio.sleep(0.1)
        first = [
            world.stream.got.index(one) for one in world.stream.got if one.HasField("progress")
        ]
        assert first == [world.stream.got.index(reply) + 1]
        world.stream.stop_reading()
        world.stream.send(SessionRequest(correlation_id=3, heartbeat=pb.Heartbeat()))
        await anyio.sleep(0.1)
        for hit in (2, 3, 4):
            world.session.move(moved(hit, 4))
        world.stream.go_on_reading()
        await anyio.sleep(0.1)
        states = [(one.hit_chunks, one.final) for one in world.stream.progress]
        assert states == [(1, False), (4, True)]

    play(seed, scene)


@SEEDS
def test_news_for_an_idle_writer_are_on_their_way_in_the_step_that_tells_them(seed: int) -> None:
    """Seen to fail while the writer was only woken: it came behind all else that step and its turn had to do."""

    async def scene(world: World) -> None:
        world.l1.answers[l1.Lookup] = lambda _: l1.Hit(TICKET, 0, 4)
        await world.ask(2, lookup=lookup(4))
        await anyio.sleep(0.1)
        world.stream.calls.clear()
        world.session.move_now(moved(1, 4))
        assert world.stream.calls == ["write"]
        world.session.move_now(moved(2, 4))
        world.session.move(moved(3, 4))
        await anyio.sleep(0.1)
        assert [one.hit_chunks for one in world.stream.progress] == [1, 3]
        assert world.stream.writes_at_once_max == 1

    play(seed, scene)


@SEEDS
def test_of_many_tickets_that_move_in_one_turn_few_are_written_in_it(seed: int) -> None:
    """One commit may move all that hope for it, and no step is to be as long as their writes.

    Seen to fail with a gateway that begins every write at once."""
    now: list[int] = []
    later: list[int] = []

    class Session:
        def move_now(self, news: gateway.TicketMoved) -> None:
            now.append(news.session)

        def move(self, news: gateway.TicketMoved) -> None:
            later.append(news.session)

    async def main() -> None:
        attached = {SessionId(number): Session() for number in range(20)}
        actor = Gateway(
            listen=(),
            handlers=(),
            service_names=(),
            streams=cast(Streams, SimpleNamespace(attached=attached, is_admitting=True)),
            places=CallPlaces({}, Places("calls", 1, key="calls_max")),
            stop_within_s=1.0,
        )
        for turn in range(1, 3):
            for number in attached:
                actor.receive(gateway.TicketMoved(number, TICKET, 1, 4))
            assert (len(now), len(later)) == (
                turn * BEGUN_A_TURN,
                turn * (len(attached) - BEGUN_A_TURN),
            )
            await anyio.sleep(0.1)

    simulate(seed, main)


@SEEDS
def test_whoever_moves_a_ticket_does_not_hear_that_its_stream_is_broken(seed: int) -> None:
    """The stream ends by it, and nothing else.

    Seen to fail with a write whose first step raised into the step of L1."""
    went_on: list[bool] = []

    async def broken(_: bytes) -> None:
        raise ConnectionError("reset")

    async def scene(world: World) -> None:
        world.l1.answers[l1.Lookup] = lambda _: l1.Hit(TICKET, 0, 4)
        await world.ask(2, lookup=lookup(4))
        await anyio.sleep(0.1)
        world.stream.write = broken  # type: ignore[method-assign]
        world.session.move_now(moved(1, 4))
        went_on.append(True)
        await anyio.sleep(0.1)

    with pytest.raises(ExceptionGroup) as raised:
        play(seed, scene)
    assert raised.group_contains(ConnectionError)
    assert went_on


@SEEDS
def test_news_of_tickets_that_are_over_do_not_crowd_out_the_others(seed: int) -> None:
    """B11: news that came after a Cancel must not be kept for ever: with tickets_max of them, no Progress came.

    Seen to fail while what was no ticket of ours stayed among the news.
    """

    async def scene(world: World) -> None:
        for number in range(3 * LIMITS.tickets_max):
            world.l1.answers[l1.Lookup] = lambda _, n=number: l1.Hit(
                TicketId(bytes([n]) * 16), 0, 2
            )
            await world.ask(2 + 2 * number, lookup=lookup())
            cancel = pb.Cancel(ticket=bytes([number]) * 16)
            await world.ask(3 + 2 * number, cancel=cancel)
            world.session.move(moved(1, 2, TicketId(bytes([number]) * 16)))
        await anyio.sleep(0.1)
        assert world.stream.progress == []
        world.l1.answers[l1.Lookup] = lambda _: l1.Hit(TICKET, 0, 2)
        await world.ask(1000, lookup=lookup())
        world.session.move(moved(2, 2))
        await anyio.sleep(0.1)
        assert [one.ticket for one in world.stream.progress] == [TICKET]

    play(seed, scene)


# Requests by name.


@SEEDS
def test_a_request_with_other_tokens_is_another_request(seed: int) -> None:
    """A5: the same request id with another prompt gets another ticket, and the old one is closed.

    Seen to fail with `known.keys == prompt.keys` taken for true: the old prompt's ticket was given.
    """

    async def scene(world: World) -> None:
        first = (await world.ask(2, lookup=lookup(request_id="r"))).lookup.ticket
        again = (await world.ask(3, lookup=lookup(request_id="r"))).lookup.ticket
        assert again == first
        other = pb.Lookup(prompt=pb.Prompt(keys=keys(2, prompt="other")), readers=1, request_id="r")
        second = (await world.ask(4, lookup=other)).lookup.ticket
        assert second not in {first, b""}
        assert [msg.tickets for msg in world.l1.of(l1.CloseTickets)] == [(first,)]
        assert [msg.keys for msg in world.l1.of(l1.Lookup)] == [keys(2), keys(2, prompt="other")]

    play(seed, scene)


@SEEDS
def test_a_request_whose_ticket_another_process_cancelled_is_looked_up_anew(seed: int) -> None:
    """A worker of the instance may cancel a scheduler's ticket; asking again must not be refused until it expires.

    Seen to fail while the session held on to the ticket: every lookup of that request was STALE.
    """

    async def scene(world: World) -> None:
        first = (await world.ask(2, lookup=lookup(request_id="r"))).lookup.ticket

        def over(_: object) -> object:
            raise TicketOver("cancelled")

        world.l1.answers[l1.LookAgain] = over
        reply = await world.ask(3, lookup=lookup(request_id="r"))
        assert reply.lookup.ticket not in {first, b""}

    play(seed, scene)


# The end.


@SEEDS
def test_silence_ends_a_stream_that_has_no_process_to_watch(seed: int) -> None:
    """DESIGN 8: half-open TCP: three missed heartbeats, and no sooner."""

    async def scene(world: World) -> None:
        for number in range(2, 12):
            await anyio.sleep(2.9)
            await world.ask(number, heartbeat=pb.Heartbeat())
        assert not world.ended.is_set()
        begin = asyncio.get_running_loop().time()
        await world.ended.wait()
        assert asyncio.get_running_loop().time() - begin == pytest.approx(3.0, abs=0.1)
        assert "nothing heard" in world.session.end_reason

    play(seed, scene, liveness=Liveness.HEARTBEATS)


@SEEDS
def test_the_end_of_the_stream_cancels_what_waits_and_closes_its_tickets(seed: int) -> None:
    async def scene(world: World) -> None:
        ticket = (await world.ask(2, lookup=lookup())).lookup.ticket
        world.eviction.answers[eviction.MakeRoom] = lambda _: never()
        world.l1.answers[l1.Reserve] = lambda _: granted(LeaseId(b""), 0, 1.0, missing=1)
        world.stream.send(SessionRequest(correlation_id=3, reserve=reserve()))
        await world.ask(4, heartbeat=pb.Heartbeat())
        world.stream.close()
        await world.ended.wait()
        assert world.stream.find(3) is None
        assert ticket in world.requests.tickets()

    play(seed, scene)


@SEEDS
def test_leases_of_a_session_are_bounded_and_committing_frees_them(seed: int) -> None:
    """C10: leases_max alive at once; a put that names its indices counts no longer than its objects."""

    async def scene(world: World) -> None:
        number = 2
        for _ in range(3 * LIMITS.leases_max):
            lease = (await world.ask(number, reserve=reserve(2))).reserved.lease
            commit = pb.Commit(lease=lease, indices=[0, 1], digests=struct.pack("<2Q", 1, 2))
            await world.ask(number + 1, commit=commit)
            number += 2
        for _ in range(LIMITS.leases_max):
            assert (await world.ask(number, reserve=reserve(2))).HasField("reserved")
            number += 1
        error = (await world.ask(number, reserve=reserve(2))).error
        assert error.code == wire.ERROR_CODE_EXHAUSTED

    play(seed, scene)
