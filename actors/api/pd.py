"""Prefill to decode: what one may ask of the sender, which pushes what an engine computes here to another node, and of
the receiver, which takes in what other nodes push.

    prefill engine   Send -> transfer id;  WaitSent -> Sent
    decode engine    l1.Lookup(loader=receiver, pool=Pool.PD), then Expect: L1 tells how the ticket grows
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from penstock.actors.api.gateway import TicketMoved
from penstock.actors.api.loader import Leave, Loader, LoaderNews, Stirred
from penstock.actors.api.pd_streams import StreamMessage
from penstock.actors.api.pd_wire import Reason, TransferId
from penstock.actors.api.types import InstanceId, LeaseId, SessionId, Shape, TicketId
from penstock.runtime.errors import CallerError, CapacityError, StaleError
from penstock.runtime.message import Msg

LAYER_RUNS_MAX = 1024  # of one Layers: what is done for each of them fits into a step of the loop


class TooManyTransfers(CapacityError):
    """Nobody's: the node is at its bound of pushes that are under way or waited for."""


class TransferUnknown(StaleError):
    """History: there was no such push, or its outcome is not remembered any more."""


class PromptTooLong(CallerError):
    """Yours: the receive budget cannot hold the longest prompt that this engine says it has. Says what it can."""


# ---------------------------------------------------------------- sending


class PdSender(Loader):
    """Address of the sender. It is told of tickets of its own, as their loader and as their watcher."""


@dataclass(frozen=True, slots=True)
class Send(Msg["PdSender", TransferId]):
    """Push these objects to another node, each as soon as it is in L1. Answered at once; nothing else is waited for.

    The prompt need not be in L1 yet: it is followed. Raises TooManyTransfers."""

    request_id: str  # 1 to REQUEST_ID_CHARS_MAX
    target: str  # node id
    shape: Shape
    keys: bytes  # of the prompt's chunks, from its start; 1 to CHUNKS_MAX
    slots: tuple[int, ...]  # that this engine writes; ascending, and not empty
    session: SessionId  # that asks
    within_s: float  # all of it, from now
    priority: int = 0  # at the receiver, 0 to PRIORITY_MAX: a higher one is admitted first


@dataclass(frozen=True, slots=True)
class Layers(Msg["PdSender", int]):
    """Push these runs of objects that the session is writing, before it commits them: they are whole, and do not change
    any more. Answers how many runs will be; the others are pushed when their objects are committed, as all are.

    What is pushed early is nothing by itself: should its object be committed otherwise, the whole push fails (DAMAGED).
    Raises TransferUnknown, also for one of another session; WriteOver, also for a lease of another; InvalidField."""

    transfer: TransferId
    session: SessionId
    lease: LeaseId  # of the reservation
    indices: tuple[int, ...]  # of its answers: granted, not committed, ascending
    first_run: int
    digests: bytes = field(repr=False)  # packed u64 of each run, object by object: as many for each


class SentState(Enum):
    """Named as in `engine.proto`."""

    PENDING = "it is not over yet"
    COMMITTED = "the receiver has verified all of it"
    FAILED = "it ended before that; the reason tells why"


@dataclass(frozen=True, slots=True)
class Sent:
    """What a push has come to."""

    state: SentState
    reason: Reason | None  # of FAILED
    bytes: int  # logical, of objects that were sent whole
    held_bytes: int  # logical, of objects that the receiver had, and were not sent
    text: str = ""  # one sentence, where the reason needs one
    early_bytes: int = 0  # that were sent before they were committed


@dataclass(frozen=True, slots=True)
class WaitSent(Msg["PdSender", Sent]):
    """Until it is over, at most so long; then PENDING. Raises TransferUnknown, also for one of another session."""

    transfer: TransferId
    session: SessionId
    within_s: float


@dataclass(frozen=True, slots=True)
class Cancel(Msg["PdSender", bool]):
    """Push nothing more of it. False: it was over, or is not known."""

    transfer: TransferId
    session: SessionId


@dataclass(frozen=True, slots=True)
class SessionOver(Msg["PdSender", None]):
    """Nobody asks for its pushes any more, and what it has not committed yet will not come: they go on with what is
    in L1, and end where that ends."""

    session: SessionId


# ---------------------------------------------------------------- receiving


class PdReceiver(Loader):
    """Address of the receiver: the loader of tickets whose prompts other nodes push."""


@dataclass(frozen=True, slots=True)
class Expect(Msg["PdReceiver", None]):
    """Pushes of this request are for this ticket. L1 was asked for it with the receiver as its loader, and is told what
    comes of it. Beyond the bound of requests the ticket is settled, as BUSY.

    The tickets of several sessions may expect one request: each gets all of it."""

    request_id: str
    ticket: TicketId
    session: SessionId
    instance: InstanceId
    shape: Shape
    keys: bytes  # of the whole prompt
    hit_chunks: int  # readable already
    within_s: (
        float  # that the pushes may take; the first offer has `pd.offer_within`, if that is less
    )
    ticket_s: float  # how long the ticket lives


@dataclass(frozen=True, slots=True)
class CheckPrompt(Msg["PdReceiver", int]):
    """How many tokens of a prompt of this shape the receive budget holds, aligned down to whole chunks.

    Raises PromptTooLong if that is less than `max_prompt_tokens`, or than `pd.max_prompt_tokens` of the
    configuration."""

    shape: Shape
    chunk_tokens: int
    max_prompt_tokens: int = 0  # that the engine will ever expect; 0: it does not say


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True, slots=True)
class Usage:
    """What of one side is under way, and what was, since the node began."""

    transfers: int  # under way
    waiting: int  # of them, for their turn at the budget
    bytes_held: int  # of the receive budget; of a sender, being sent
    committed: int
    failed: int
    bytes_moved: int  # of objects sent, or received and verified


@dataclass(frozen=True, slots=True)
class MeasureSent(Msg["PdSender", Usage]):
    pass


@dataclass(frozen=True, slots=True)
class MeasureReceived(Msg["PdReceiver", Usage]):
    pass


Received = Expect | CheckPrompt | MeasureReceived
Asked = Send | Layers | WaitSent | Cancel | SessionOver | MeasureSent
SenderMessage = Asked | TicketMoved | Leave | Stirred
ReceiverMessage = Received | LoaderNews | StreamMessage
