"""Requests of an engine stream about pushes: what is asked of sender, receiver and L1, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from support.declarations import CHUNK_TOKENS, keys
from support.engine_stream import ATTACHED, LIMITS, World, lookup, play
from support.fake_actors import Fake, never

from penstock.actors.api import gateway, l1, l1_loading, pd
from penstock.actors.api.errors import TicketOver, TooManyInFlight, WriteOver
from penstock.actors.api.pd_wire import Reason, TransferId
from penstock.actors.api.types import (
    GroupGeometry,
    HitRule,
    Pool,
    SessionId,
    Shape,
    Shortfall,
    TicketId,
)
from penstock.actors.engine_pd import Asker, Pushes, PushRequests
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.gateway_session import Liveness
from penstock.protos import common_pb2 as wire
from penstock.protos import engine_pb2 as pb
from penstock.protos import pd_pb2

TRANSFER = TransferId(b"p" * 16)
GROUP = GroupGeometry(HitRule.FULL, 0, (4096,), (1,))
SHAPE = Shape.of(ATTACHED.geometry, b"n" * 32, (GROUP,))
TRANSFER_S = 12.0
PENDING = pd.Sent(pd.SentState.PENDING, None, 0, 0)
CODES = {name: getattr(wire, f"ERROR_CODE_{name}") for name in ("INVALID", "EXHAUSTED", "STALE")}


class PdWorld(World):
    """A session at a node that pushes and takes in."""

    receives = True
    pushes = True
    slots: tuple[int, ...] = (0,)
    receiver_mailbox = 64

    def __init__(self, limits: GatewayLimits, liveness: Liveness) -> None:
        super().__init__(limits, liveness)
        self.sender = Fake(
            pd.PdSender,
            "pd_sender",
            {
                pd.Send: lambda _: TRANSFER,
                pd.WaitSent: lambda _: PENDING,
                pd.Cancel: lambda _: True,
                pd.Layers: lambda _: 3,
            },
        )
        self.receiver = Fake(
            pd.PdReceiver,
            "pd_receiver",
            {pd.CheckPrompt: lambda _: 1024},
            messages_max=self.receiver_mailbox,
        )
        self.others = [self.sender, self.receiver]
        self.l1.answers[l1.Lookup] = lambda msg: l1.Hit(msg.ticket, 1, len(msg.keys) // 32, True)
        asker = Asker(
            attached=ATTACHED,
            slots=self.slots,
            shape=SHAPE,
            chunk_tokens=CHUNK_TOKENS,
            prompts=self.requests.prompts,
            holdings=self.requests.holdings,
            limits=limits,
        )
        receiver = self.receiver.ref if self.receives else None
        pushes = Pushes(self.sender.ref, receiver, TRANSFER_S) if self.pushes else None
        self.pushing = PushRequests(asker, pushes, manager=self.l1.ref, watcher=self.gateway.ref)
        self.requests.handlers.update(self.pushing.handlers)

    async def expected(self) -> list[pd.Expect]:
        """What the receiver was told, when it has read its mailbox."""
        await self.receiver.ref.ask(pd.MeasureReceived(), within=1)
        return self.receiver.of(pd.Expect)


class Alone(PdWorld):
    pushes = False


class OnlySends(PdWorld):
    receives = False


class MovesNothing(PdWorld):
    slots = ()


def run(scene: Callable[[PdWorld], Awaitable[None]], kind: type[PdWorld] = PdWorld) -> None:
    play(0, scene, kind=kind)  # type: ignore[arg-type]


def send(chunks: int = 2, **fields: object) -> pb.PdSend:
    given = {"prompt": pb.Prompt(keys=keys(chunks)), "request_id": "r", "target": "b", **fields}
    return pb.PdSend(**given)  # type: ignore[arg-type]


def expect(chunks: int = 2, **fields: object) -> pb.PdExpect:
    given = {"prompt": pb.Prompt(keys=keys(chunks)), "request_id": "r", "readers": 1, **fields}
    return pb.PdExpect(**given)  # type: ignore[arg-type]


ID = b"i" * 16
REFUSED: list[tuple[dict[str, object], str]] = [
    ({"pd_send": send(request_id="")}, "pd_send.request_id"),
    ({"pd_send": send(request_id="r" * 257)}, "pd_send.request_id"),
    ({"pd_send": send(target="")}, "pd_send.target"),
    ({"pd_send": send(target="t" * 64)}, "pd_send.target"),
    ({"pd_send": send(priority=1001)}, "pd_send.priority"),
    ({"pd_send": send(within_ms=20_001)}, "pd_send.within_ms"),
    ({"pd_send": send(0)}, "pd_send.prompt"),
    ({"pd_wait": pb.PdWait(transfer=b"t")}, "pd_wait.transfer"),
    ({"pd_cancel": pb.PdCancel(transfer=b"")}, "pd_cancel.transfer"),
    ({"pd_layers": pb.PdLayers(transfer=b"t", lease=b"l" * 16)}, "pd_layers.transfer"),
    ({"pd_layers": pb.PdLayers(transfer=b"t" * 16)}, "pd_layers.lease"),
    ({"pd_expect": expect(request_id="")}, "pd_expect.request_id"),
    ({"pd_expect": expect(request_id="r" * 257)}, "pd_expect.request_id"),
    ({"pd_expect": expect(readers=0)}, "pd_expect.readers"),
    ({"pd_expect": expect(readers=129)}, "pd_expect.readers"),
    ({"pd_expect": expect(ticket_ms=60_001)}, "pd_expect.ticket_ms"),
    ({"pd_expect": expect(within_ms=20_001)}, "pd_expect.within_ms"),
]


def test_every_bad_field_is_refused_by_name_and_nobody_is_asked() -> None:
    """B2."""

    async def scene(world: PdWorld) -> None:
        for number, (body, field) in enumerate(REFUSED, start=2):
            error = (await world.ask(number, **body)).error
            assert (error.code, error.field) == (CODES["INVALID"], field), (body, error)
        assert not world.sender.recorder.heard
        assert not await world.expected()
        assert not world.l1.of(l1.Lookup)

    run(scene)


@pytest.mark.parametrize(
    ("kind", "body", "say"),
    [
        (Alone, {"pd_send": send()}, "cluster"),
        (Alone, {"pd_wait": pb.PdWait(transfer=ID)}, "cluster"),
        (Alone, {"pd_cancel": pb.PdCancel(transfer=ID)}, "cluster"),
        (Alone, {"pd_expect": expect()}, "cluster"),
        (Alone, {"pd_layers": pb.PdLayers(transfer=ID, lease=ID)}, "cluster"),
        (OnlySends, {"pd_expect": expect()}, "cluster.pd.receive"),
        (MovesNothing, {"pd_send": send()}, "own_shards"),
    ],
)
def test_a_node_or_a_session_that_cannot_says_what_to_do(
    kind: type[PdWorld], body: dict[str, object], say: str
) -> None:
    async def scene(world: PdWorld) -> None:
        error = (await world.ask(2, **body)).error
        assert error.code == CODES["INVALID"]
        assert say in error.message
        assert (await world.ask(3, lookup=lookup())).HasField("lookup")

    run(scene, kind)


def test_a_push_is_asked_for_with_the_slots_that_the_session_writes() -> None:
    async def scene(world: PdWorld) -> None:
        reply = await world.ask(2, pd_send=send(3, target="node-b", priority=7))
        assert reply.pd_send.transfer == TRANSFER
        await world.ask(3, pd_send=send(within_ms=500))
        first, second = world.sender.of(pd.Send)
        assert (first.request_id, first.target, first.priority) == ("r", "node-b", 7)
        assert (first.keys, first.slots, first.shape) == (keys(3), (0,), SHAPE)
        assert (first.within_s, second.within_s) == (TRANSFER_S, 0.5)
        assert first.session == ATTACHED.session

    run(scene)


def test_the_outcome_of_a_push_is_waited_for_beside_other_requests() -> None:
    async def scene(world: PdWorld) -> None:
        over = asyncio.Event()

        async def wait_sent(_: pd.WaitSent) -> pd.Sent:
            await over.wait()
            return pd.Sent(pd.SentState.FAILED, Reason.NO_ROOM, 10, 20, "too late")

        world.sender.answers[pd.WaitSent] = wait_sent
        world.stream.send(
            pb.SessionRequest(
                correlation_id=2, pd_wait=pb.PdWait(transfer=TRANSFER, within_ms=3000)
            )
        )
        assert (await world.ask(3, lookup=lookup())).HasField("lookup")
        assert world.stream.find(2) is None
        over.set()
        sent = (await world.stream.reply_to(2)).pd_wait
        assert (sent.state, sent.reason) == (pb.PD_SENT_STATE_FAILED, pd_pb2.PD_REASON_NO_ROOM)
        assert (sent.bytes, sent.held_bytes, sent.text) == (10, 20, "too late")
        assert [one.within_s for one in world.sender.of(pd.WaitSent)] == [3.0]

    run(scene)


def refuse(error: Exception, _: object) -> object:
    raise error


def test_refusals_of_the_sender_are_told_as_they_are() -> None:
    async def scene(world: PdWorld) -> None:
        world.sender.answers[pd.Send] = partial(refuse, pd.TooManyTransfers("256 are under way"))
        world.sender.answers[pd.WaitSent] = partial(refuse, pd.TransferUnknown("no such push"))
        assert (await world.ask(2, pd_send=send())).error.code == CODES["EXHAUSTED"]
        reply = await world.ask(3, pd_wait=pb.PdWait(transfer=ID))
        assert reply.error.code == CODES["STALE"]
        assert (await world.ask(4, pd_cancel=pb.PdCancel(transfer=ID))).pd_cancel.ok

    run(scene)


def test_layers_are_told_in_the_name_of_the_session_that_writes_them() -> None:
    async def scene(world: PdWorld) -> None:
        layers = pb.PdLayers(
            transfer=ID, lease=b"l" * 16, indices=[1, 3], first_run=2, digests=bytes(32)
        )
        assert (await world.ask(2, pd_layers=layers)).pd_layers.runs == 3
        (asked,) = world.sender.of(pd.Layers)
        assert asked.session == ATTACHED.session
        assert (asked.transfer, asked.lease, asked.indices) == (ID, b"l" * 16, (1, 3))
        assert (asked.first_run, asked.digests) == (2, bytes(32))
        world.sender.answers[pd.Layers] = partial(refuse, WriteOver("it has ended"))
        assert (await world.ask(3, pd_layers=layers)).error.code == CODES["STALE"]

    run(scene)


def test_an_expected_prompt_is_a_ticket_that_the_receiver_fills() -> None:
    """The reply, Progress and Cancel are those of any lookup."""

    async def scene(world: PdWorld) -> None:
        reply = await world.ask(2, pd_expect=expect(3, readers=2, within_ms=900))
        assert (reply.lookup.hit_chunks, reply.lookup.promised_chunks) == (1, 3)
        assert not reply.lookup.final
        (asked,) = world.l1.of(l1.Lookup)
        assert (asked.loader, asked.pool, asked.readers) == (world.receiver.ref, Pool.PD, 2)
        (told,) = await world.expected()
        assert (told.request_id, told.ticket, told.keys) == ("r", asked.ticket, keys(3))
        assert (told.hit_chunks, told.within_s, told.shape) == (1, 0.9, SHAPE)
        world.session.move(gateway.TicketMoved(SessionId(1), asked.ticket, 3, 3))
        assert (await world.ask(3, cancel=pb.Cancel(ticket=reply.lookup.ticket))).cancelled.ok
        assert [one.hit_chunks for one in world.stream.progress] == [3]
        assert not world.requests.holdings.tickets()
        world.requests.holdings.validate()

    run(scene)


def test_what_is_all_there_is_expected_of_nobody() -> None:
    async def scene(world: PdWorld) -> None:
        world.l1.answers[l1.Lookup] = lambda msg: l1.Hit(msg.ticket, 2, 2)
        assert (await world.ask(2, pd_expect=expect())).lookup.final
        world.l1.answers[l1.Lookup] = lambda _: l1.Hit(TicketId(b""), 0, 0)
        reply = await world.ask(3, pd_expect=expect(0, request_id="short"))
        assert (reply.lookup.final, reply.lookup.ticket) == (True, b"")
        assert not await world.expected()
        assert len(world.requests.holdings.tickets()) == 1

    run(scene)


def test_the_same_request_again_has_its_ticket_and_another_prompt_another_one() -> None:
    async def scene(world: PdWorld) -> None:
        first = (await world.ask(2, pd_expect=expect(3))).lookup
        again = (await world.ask(3, pd_expect=expect(3))).lookup
        assert again.ticket == first.ticket
        looked_up = (await world.ask(4, lookup=lookup(3, request_id="r"))).lookup
        assert looked_up.ticket != first.ticket  # a lookup of this name is another request
        assert first.ticket in world.requests.holdings.tickets()
        other = (await world.ask(5, pd_expect=expect(2))).lookup
        assert other.ticket != first.ticket
        assert world.l1.of(l1.CloseTickets)[0].tickets == (first.ticket,)

        def over(_: l1.LookAgain) -> l1.Hit:
            raise TicketOver("it is over")

        world.l1.answers[l1.LookAgain] = over
        anew = (await world.ask(6, pd_expect=expect(2))).lookup
        assert anew.ticket != other.ticket
        assert len(await world.expected()) == 3

    run(scene)


def test_a_receiver_that_takes_no_more_is_spoken_for() -> None:
    class Clogged(PdWorld):
        receiver_mailbox = 1

    async def scene(world: PdWorld) -> None:
        world.receiver.answers[pd.Expect] = never
        for number in range(2, 6):
            await world.ask(number, pd_expect=expect(request_id=f"r{number}"))
        settled = world.l1.of(l1_loading.Settle)
        assert settled
        assert {one.shortfall for one in settled} == {Shortfall.BUSY}

    run(scene, Clogged)


def test_a_prompt_longer_than_the_receive_budget_is_refused_once_and_for_all() -> None:
    """Told when an engine first expects something, not when its longest prompt comes."""

    def refuse(_: pd.CheckPrompt) -> int:
        raise pd.PromptTooLong("cluster.pd.receive holds 512 tokens of this model")

    async def scene(world: PdWorld) -> None:
        right = world.receiver.answers[pd.CheckPrompt]
        world.receiver.answers[pd.CheckPrompt] = refuse
        error = (await world.ask(2, pd_expect=expect())).error
        assert (error.code, "512 tokens" in error.message) == (CODES["INVALID"], True)
        assert not world.l1.of(l1.Lookup)
        world.receiver.answers[pd.CheckPrompt] = right
        for number in (3, 4):
            await world.ask(number, pd_expect=expect(request_id=f"r{number}"))
        assert len(world.receiver.of(pd.CheckPrompt)) == 2

    run(scene)


def test_tickets_of_expected_prompts_count_against_the_session() -> None:
    async def scene(world: PdWorld) -> None:
        for number in range(LIMITS.tickets_max):
            await world.ask(2 + number, pd_expect=expect(request_id=f"r{number}"))
        error = (await world.ask(100, pd_expect=expect(request_id="more"))).error
        assert error.code == CODES["EXHAUSTED"]
        assert len(world.l1.of(l1.Lookup)) == LIMITS.tickets_max

    run(scene)


def test_a_ticket_that_l1_refuses_counts_for_nothing() -> None:
    def refuse(_: l1.Lookup) -> l1.Hit:
        raise TooManyInFlight("all tickets are in use")

    async def scene(world: PdWorld) -> None:
        world.l1.answers[l1.Lookup] = refuse
        for number in range(LIMITS.tickets_max + 1):
            error = (await world.ask(2 + number, pd_expect=expect(request_id=f"r{number}"))).error
            assert (error.code, error.message) == (CODES["EXHAUSTED"], "all tickets are in use")
        assert not world.requests.holdings.tickets()

    run(scene)


def test_the_end_of_a_session_that_pushed_is_told() -> None:
    async def scene(world: PdWorld) -> None:
        await world.pushing.end(1.0)
        assert not world.sender.of(pd.SessionOver)
        await world.ask(2, pd_send=send())
        await world.pushing.end(1.0)
        await world.ask(3, lookup=lookup())
        assert [one.session for one in world.sender.of(pd.SessionOver)] == [ATTACHED.session]

    run(scene)
