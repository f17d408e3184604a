"""Who answers for pushes in a fuzzed node: no other node is there, so that every one ends as if none had come."""

from __future__ import annotations

import os

from penstock.actors.api import l1, l1_loading, loader, pd
from penstock.actors.api.pd_wire import Reason, TransferId
from penstock.actors.api.types import SessionId, Shortfall
from penstock.actors.engine_pd import Pushes
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec

SENDS_MAX = 4
FAILED = pd.Sent(pd.SentState.FAILED, Reason.PEER, 0, 0, "no such node")


class Sender(pd.PdSender):
    """Takes on so many, remembers whose they are, and brings none of them anywhere."""

    def __init__(self) -> None:
        self._sent: dict[TransferId, SessionId] = {}

    def receive(self, msg: pd.SenderMessage) -> object:
        match msg:
            case pd.Send():
                if len(self._sent) >= SENDS_MAX:
                    raise pd.TooManyTransfers("as many as may are under way")
                transfer = TransferId(os.urandom(16))
                self._sent[transfer] = msg.session
                return answer(msg, transfer)
            case pd.WaitSent():
                if self._sent.get(msg.transfer) != msg.session:
                    raise pd.TransferUnknown("no such push of this session")
                return answer(msg, FAILED)
            case pd.Layers():
                if self._sent.get(msg.transfer) != msg.session:
                    raise pd.TransferUnknown("no such push of this session")
                return answer(msg, 0)
            case pd.Cancel():
                is_its_own = self._sent.get(msg.transfer) == msg.session
                if is_its_own:
                    del self._sent[msg.transfer]
                return answer(msg, is_its_own)
            case pd.SessionOver():
                self._sent = {one: by for one, by in self._sent.items() if by != msg.session}
                return answer(msg, None)
            case _:
                return None


class Receiver(pd.PdReceiver):
    """Expects nothing of anybody."""

    def __init__(self, manager: Ref[l1.L1Manager]) -> None:
        self._l1 = manager

    def receive(self, msg: pd.ReceiverMessage) -> object:
        match msg:
            case pd.CheckPrompt():
                return answer(msg, 1 << 20)
            case pd.Expect():
                self._l1.tell_nowait(l1_loading.Settle(msg.ticket, Shortfall.OUT_OF_TIME))
                return answer(msg, None)
            case loader.Leave():
                return answer(msg, None)
            case _:
                return None


def stand_ins(manager: Ref[l1.L1Manager]) -> tuple[Pushes, list[ChildSpec[object]]]:
    """Whom a session asks, and who they are."""
    sender = Ref.to(pd.PdSender, "pd_sender", messages_max=64)
    receiver = Ref.to(pd.PdReceiver, "pd_receiver", messages_max=64)
    children = [ChildSpec(sender, Sender), ChildSpec(receiver, lambda: Receiver(manager))]
    return Pushes(sender, receiver, 5.0), children
