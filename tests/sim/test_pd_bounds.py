"""Bounds of pushes, each refused in words; and nodes that stop in the midst of them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import anyio
import pytest
from support.pd_world import SESSION, PdWorld, PdWorldConfig, config, play
from support.prefetch_world import PAGE, prompt

from penstock.actors.api import pd
from penstock.actors.api.errors import InvalidField
from penstock.actors.api.pd_streams import Heard
from penstock.actors.api.pd_wire import Abort, Offer, Query, Reason, Slice, State, TransferId, Word
from penstock.actors.api.types import SessionId, Shortfall
from penstock.actors.pd_services import METHOD, Outbox
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import ByteSize, Seconds

SEEDS = pytest.mark.parametrize("seed", range(4))


class Overheard:
    """A call that only listens."""

    node_id = "a"

    def __init__(self, world: PdWorld) -> None:
        self.connection = world.links["a", "b"].far_connection
        self.said: list[Word] = []

    def say(self, word: Word) -> None:
        self.said.append(word)


def offer_to(world: PdWorld, keys: bytes, **changed: Any) -> Offer:
    """As its sender at `a` would make it."""
    shape = world.b.shape
    given: dict[str, Any] = {
        "transfer": TransferId(world.draw.randbytes(16)),
        "request_id": "r",
        "epoch": world.b.epoch,
        "namespace": shape.namespace,
        "keys": keys,
        "slots": (0,),
        "logical_bytes": (PAGE,),
        "priority": 0,
        "within_s": 5.0,
    }
    return Offer(**(given | changed))


async def refused(world: PdWorld, offer: Offer) -> Reason:
    """How the receiver at `b` answers it."""
    call = Overheard(world)
    await world.b.receiver.tell(Heard(call, offer), within=1)
    await anyio.sleep(0.5)
    (said,) = call.said
    assert isinstance(said, Abort)
    return said.reason


def test_offers_that_cannot_be_taken_in_are_answered_with_why() -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(2)
        for reason, changed in (
            (Reason.UNSUPPORTED, {"slices": (Slice(0, 0, 1, 0, 1),)}),
            (Reason.NAMESPACE, {"namespace": b"?" * 32}),
            (Reason.NAMESPACE, {"logical_bytes": (PAGE + 1,)}),
            (Reason.NAMESPACE, {"slots": (1,)}),
            (Reason.STALE, {"epoch": b"?" * 16}),
        ):
            assert await refused(world, offer_to(world, keys, **changed)) is reason
        await world.assert_nothing_is_held()

    play(0, scene)


def test_offers_of_unknown_namespaces_are_bounded_as_pushes_are() -> None:
    """C10: seen to fail with a question to L1 for each of them, however many, and a line of the log for each."""

    async def scene(world: PdWorld) -> None:
        call = Overheard(world)
        for _ in range(10):
            offer = offer_to(world, prompt(1), namespace=world.draw.randbytes(32))
            for _ in range(2):  # the same one twice costs no more
                world.b.receiver.tell_nowait(Heard(call, offer))
        await anyio.sleep(0.5)
        reasons = [said.reason for said in call.said if isinstance(said, Abort)]
        assert reasons.count(Reason.NAMESPACE) == 2
        assert reasons.count(Reason.BUSY) == 16
        assert await refused(world, offer_to(world, prompt(1), namespace=b"?" * 32)) is (
            Reason.NAMESPACE
        )
        await world.assert_nothing_is_held()

    play(0, scene, PdWorldConfig(pd=config(receives_max=2)))


def test_a_push_whose_name_is_used_again_while_its_memory_is_read_is_refused() -> None:
    """C10: of a push that nobody remembers, but for the budget. Seen to fail: the receiver died of it, and all pushes
    that it was taking in with it."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(2)
        watched = [await world.b.expect(keys, name) for name in ("r", "s")]
        first, second = [await world.a.send(keys, "b", name) for name in ("r", "s")]
        await anyio.sleep(0.3)  # the second waits for what the first one brings
        await world.a.write(keys, range(2))
        for one in (first, second):
            assert (await world.a.sent(one)).state is pd.SentState.COMMITTED
        await world.b.close(watched[0])
        await world.a.write(prompt(2, "other"), range(2))
        other = await world.b.expect(prompt(2, "other"), "other")
        await world.a.sent(await world.a.send(prompt(2, "other"), "b", "other"))
        await world.b.close(other)
        await anyio.sleep(0.5)
        life = world.b.actor
        again = offer_to(world, prompt(2, "third"), transfer=first, request_id="third")
        assert await refused(world, again) is Reason.STALE
        assert world.b.actor is life
        assert await world.b.read(watched[1]) == 2
        await world.b.close(watched[1])
        await world.assert_nothing_is_held()

    with mock.patch("penstock.actors.pd_receiver.ENDED_MAX", 1):
        play(0, scene)


def test_a_push_that_is_not_known_is_said_to_be_unknown_and_ends_are_left_alone() -> None:
    async def scene(world: PdWorld) -> None:
        call, transfer = Overheard(world), TransferId(b"?" * 16)
        await world.b.receiver.tell(Heard(call, Query(transfer)), within=1)
        await world.b.receiver.tell(Heard(call, Abort(transfer, Reason.CANCELLED)), within=1)
        await anyio.sleep(0.1)
        (said,) = call.said
        assert isinstance(said, State)

    play(0, scene)


def test_a_push_of_another_link_is_not_touched() -> None:
    """Whoever guesses the name of a push on a link of its own ends nothing by it."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(0.2)
        stranger = Overheard(world)
        stranger.connection, _ = world.net.connect()
        abort = Abort(transfer, Reason.CANCELLED)
        await world.b.receiver.tell(Heard(stranger, abort), within=1)
        await world.a.write(keys, range(4))
        assert await world.b.wait_final(watched) == 4
        (said,) = stranger.said
        assert isinstance(said, Abort)
        await world.b.close(watched)
        await world.assert_nothing_is_held()

    play(0, scene)


@pytest.mark.parametrize("garbage", [b"", b"\xff\xff", bytes(100), b"x" * 70_000])
def test_garbage_ends_its_call_and_no_other(garbage: bytes) -> None:
    """What is no word of the contract; pushes on another call of the same link go on."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(0.1)
        call = world.links["a", "b"].stream(METHOD)
        await call.write(garbage)
        assert await call.read() is None
        await world.a.write(keys, range(4))
        assert await world.b.wait_final(watched) == 4
        assert (await world.a.sent(transfer)).state is pd.SentState.COMMITTED
        await world.b.close(watched)
        await world.assert_nothing_is_held()

    play(0, scene)


def test_a_call_whose_reader_is_too_slow_ends() -> None:
    """Nothing waits without a bound for a peer that does not read."""
    outbox, written = Outbox(bytes_max=1000), list[bytes]()

    async def write(data: bytes) -> None:
        written.append(data)

    async def main() -> None:
        query = Query(TransferId(b"t" * 16))
        for _ in range(30):
            outbox.say(query)
        assert not outbox.is_over
        for _ in range(60):
            outbox.say(query)
        assert outbox.is_over
        await outbox.write_all(write)
        assert not written

    simulate(0, main)


def test_one_push_too_many_is_refused_at_either_side() -> None:
    async def scene(world: PdWorld) -> None:
        transfers = [await world.a.send(prompt(1, name), "b", name) for name in "pq"]
        with pytest.raises(pd.TooManyTransfers, match=r"cluster\.pd\.sends_max"):
            await world.a.send(prompt(1, "s"), "b", "s")
        await anyio.sleep(0.2)
        assert await refused(world, offer_to(world, prompt(1, "s"), request_id="s")) is Reason.BUSY
        wait = pd.WaitSent(transfers[0], SESSION, 5.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: world.a.sender.ask(wait, within=6))
            await anyio.sleep(0.1)
            with pytest.raises(pd.TooManyTransfers, match=r"cluster\.pd\.waiters_max"):
                await world.a.sender.ask(wait, within=6)
            for one in transfers:
                assert await world.a.sender.ask(pd.Cancel(one, SESSION), within=1)
        assert not await world.a.sender.ask(pd.Cancel(transfers[0], SESSION), within=1)
        await anyio.sleep(3)
        await world.assert_nothing_is_held()

    few = config(sends_max=2, receives_max=2, waiters_max=1)
    play(0, scene, PdWorldConfig(pd=few))


def test_one_request_too_many_is_final_at_once() -> None:
    async def scene(world: PdWorld) -> None:
        first = await world.b.expect(prompt(2), "r")
        second = await world.b.expect(prompt(2, "other"), "s")
        begun = anyio.current_time()
        assert await world.b.wait_final(second) == 0
        assert second.shortfall is Shortfall.BUSY
        assert anyio.current_time() - begun < 0.5
        await world.b.close(second)
        await world.b.close(first)
        await world.assert_nothing_is_held()

    play(0, scene, PdWorldConfig(pd=config(requests_max=1)))


def test_pushes_of_another_session_are_its_own() -> None:
    async def scene(world: PdWorld) -> None:
        transfer = await world.a.send(prompt(1), "b")
        stranger = SessionId(7)
        with pytest.raises(pd.TransferUnknown):
            await world.a.sender.ask(pd.WaitSent(transfer, stranger, 1.0), within=2)
        assert not await world.a.sender.ask(pd.Cancel(transfer, stranger), within=1)
        assert await world.a.sender.ask(pd.Cancel(transfer, SESSION), within=1)
        assert (await world.a.sent(transfer)).reason is Reason.CANCELLED
        await anyio.sleep(3)
        await world.assert_nothing_is_held()

    play(0, scene)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("request_id", {"request": ""}),
        ("slots", {"slots": ()}),
        ("slots", {"slots": (1,)}),
        ("slots", {"slots": (0, 0)}),
        ("priority", {"priority": 1001}),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_field(field: str, changed: dict[str, Any]) -> None:
    async def scene(world: PdWorld) -> None:
        with pytest.raises(InvalidField, match=field):
            await world.a.send(prompt(1), "b", **changed)

    play(0, scene)


def test_a_prompt_that_is_never_computed_ends_with_its_time() -> None:
    """The transfer's own bound, while both sides are well and talk."""

    async def scene(world: PdWorld) -> None:
        watched = await world.b.expect(prompt(2))
        transfer = await world.a.send(prompt(2), "b")
        begun = anyio.current_time()
        sent = await world.a.sent(transfer)
        assert sent.reason is Reason.OUT_OF_TIME
        assert anyio.current_time() - begun == pytest.approx(3, abs=0.5)
        assert await world.b.wait_final(watched) == 0
        await world.b.close(watched)
        await world.assert_nothing_is_held()

    play(0, scene, PdWorldConfig(pd=config(transfer=Seconds(3))))


def test_who_waits_for_the_budget_longer_than_its_time_is_told() -> None:
    """B11 B13: one request holds the budget, and nobody lets go of it."""

    async def scene(world: PdWorld) -> None:
        keys, other = prompt(4), prompt(4, "other")
        watched = await world.b.expect(keys)
        for one in (keys, other):
            await world.a.write(one, range(4))
        await world.a.sent(await world.a.send(keys, "b"))
        begun = anyio.current_time()
        sent = await world.a.sent(await world.a.send(other, "b", "other"))
        assert sent.reason is Reason.NO_ROOM
        assert anyio.current_time() - begun == pytest.approx(3, abs=0.3)
        await world.b.close(watched)
        await world.assert_nothing_is_held()

    play(0, scene, PdWorldConfig(pd=config(receive=ByteSize(6 * PAGE))))


@SEEDS
def test_a_node_that_stops_tells_the_other_one(seed: int) -> None:
    """Its receiver stops in order, in the midst: the sender need not wait for any deadline."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(8)
        await world.a.write(keys, range(8))
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(world.draw.uniform(0, 0.1))
        world.b.receiver.mailbox.close()
        begun = anyio.current_time()
        sent = await world.a.sent(transfer)
        if sent.state is pd.SentState.FAILED:
            assert sent.reason in (Reason.STOPPING, Reason.STALE, Reason.IDLE)
        assert anyio.current_time() - begun < 4

    play(seed, scene)
