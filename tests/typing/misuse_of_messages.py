"""What the type checker must reject in talking to actors. Read by test_typing.py; never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg, answer
from penstock.runtime.ref import Ref, gather_asks
from penstock.runtime.supervisor import ChildSpec


@dataclass(frozen=True, slots=True)
class Pin(Msg["L1Manager", int]):
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Evicted(Msg["L1Manager", None]):
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Load(Msg["Store", bytes]):
    key: bytes


class L1Manager(Actor[Pin | Evicted]):
    def receive(self, msg: Pin | Evicted) -> object:
        match msg:
            case Pin():
                return answer(msg, "pinned")  # expect-error: Cannot infer value
            case Evicted():
                return answer(msg, None)


class Store(Actor[Load]):
    async def receive(self, msg: Load) -> object:
        return answer(msg, msg.key)


class Deaf(Actor[Load]):
    def receive(self, msg: Pin) -> object:  # expect-error: incompatible with supertype
        return answer(msg, 1)


async def asked_and_told(l1: Ref[L1Manager], store: Ref[Store]) -> None:
    assert_type(await l1.ask(Pin(()), within=1), int)
    assert_type(await store.ask(Load(b""), within=1), bytes)
    await l1.tell(Evicted(()), within=1)
    l1.tell_nowait(Evicted(()))

    await l1.ask(Load(b""), within=1)  # expect-error: incompatible type "Load"
    await store.ask(Pin(()), within=1)  # expect-error: incompatible type "Pin"
    await l1.tell(Pin(()), within=1)  # expect-error: incompatible type "Pin"
    l1.tell_nowait(Pin(()))  # expect-error: incompatible type "Pin"
    store.tell_nowait(Evicted(()))  # expect-error: incompatible type "Evicted"
    pinned: str = await l1.ask(Pin(()), within=1)  # expect-error: expected "Msg[L1Manager, str]"
    l1.ask(Pin(()), within=1)  # expect-error: must be used
    await l1.ask(Pin(()), 1)  # expect-error: Too many positional arguments
    print(pinned)


async def several(l1: Ref[L1Manager]) -> None:
    for answered in await gather_asks(l1.ask(Pin(()), within=1) for _ in range(3)):
        print(answered + 1)  # expect-error: Unsupported operand types


def supervised(l1: Ref[L1Manager], store: Ref[Store]) -> None:
    ChildSpec(l1, L1Manager)
    ChildSpec(store, Store, restarts_max=0)
    ChildSpec(l1, Store)  # expect-error: expected "Callable[[], L1Manager]"
    Pin(()).keys = ()  # expect-error: read-only
