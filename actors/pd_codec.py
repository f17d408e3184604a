"""Words of a push as bytes of `pd.proto`, and back: whatever the other side sends, it becomes a word that is within the
bounds of the contract, or a refusal."""

from __future__ import annotations

from itertools import pairwise

from google.protobuf.message import DecodeError

from penstock.actors.api.pd_wire import (
    CHUNKS_MAX,
    DIGEST_RECORD,
    DIGESTS_MAX,
    OBJECTS_MAX,
    PRIORITY_MAX,
    TRANSFER_BYTES,
    Abort,
    Commit,
    Data,
    Grant,
    Offer,
    Phase,
    Query,
    Reason,
    Slice,
    State,
    TransferId,
    Word,
)
from penstock.actors.api.types import KEY_BYTES, REQUEST_ID_CHARS_MAX, Epoch
from penstock.protos import pd_pb2
from penstock.runtime.channel import GRANT_BYTES_MAX
from penstock.runtime.errors import CallerError

TEXT_BYTES_MAX = 512
WITHIN_MS_MAX = 4_000_000_000
SLOTS_BOUND = 1 << 16
EPOCH_BYTES = 16
DIGEST_BYTES = 32


class NoWord(CallerError):
    """Theirs: bytes that are no word of this contract, or break one of its bounds."""


# ---------------------------------------------------------------- to bytes


def encoded(word: Word) -> bytes:
    """One message."""
    message = pd_pb2.PdMessage(transfer=word.transfer)
    match word:
        case Offer():
            _put_offer(word, message.offer)
        case Grant():
            message.grant.request_id, message.grant.epoch = word.request_id, word.epoch
            message.grant.first_chunk, message.grant.needs = word.first_chunk, word.needs
            message.grant.landing = word.landing
        case Data():
            message.data.digests = word.digests
        case Commit():
            message.commit.objects, message.commit.digest = word.objects, word.digest
            message.commit.chunks = word.chunks
        case Abort():
            message.abort.reason = _REASONS[word.reason]
            message.abort.text = _cut(word.text)
        case Query():
            message.query.SetInParent()
        case State():
            message.state.phase = _PHASES[word.phase]
            message.state.grants, message.state.objects = word.grants, word.objects
    return message.SerializeToString()


def _put_offer(word: Offer, offer: pd_pb2.PdOffer) -> None:
    offer.request_id, offer.epoch = word.request_id, word.epoch
    offer.namespace_digest, offer.chunk_keys = word.namespace, word.keys
    offer.slots.extend(word.slots)
    offer.logical_bytes.extend(word.logical_bytes)
    offer.priority = word.priority
    offer.within_ms = max(1, min(WITHIN_MS_MAX, round(word.within_s * 1000)))
    for one in word.slices:
        offer.slices.add(
            slot=one.slot,
            first_layer=one.first_layer,
            layers=one.layers,
            first_head=one.first_head,
            heads=one.heads,
        )


def _cut(text: str) -> str:
    return text.encode()[:TEXT_BYTES_MAX].decode(errors="ignore")


# ---------------------------------------------------------------- from bytes


def decoded(data: bytes) -> Word:
    """Raises NoWord."""
    try:
        message = pd_pb2.PdMessage.FromString(data)
    except DecodeError:
        raise NoWord("bytes that are no PdMessage") from None
    transfer = TransferId(message.transfer)
    _require(len(transfer) == TRANSFER_BYTES, "transfer", f"{TRANSFER_BYTES} bytes")
    match message.WhichOneof("body"):
        case "offer":
            return _offer(transfer, message.offer)
        case "grant":
            return _grant(transfer, message.grant)
        case "data":
            digests = message.data.digests
            is_whole = len(digests) % DIGEST_RECORD.size == 0
            is_bounded = len(digests) <= DIGEST_RECORD.size * DIGESTS_MAX
            _require(is_whole and is_bounded, "data.digests", f"at most {DIGESTS_MAX} records")
            return Data(transfer, digests)
        case "commit":
            commit = message.commit
            _require(len(commit.digest) == DIGEST_BYTES, "commit.digest", f"{DIGEST_BYTES} bytes")
            return Commit(transfer, commit.objects, commit.digest, commit.chunks)
        case "abort":
            reason = _REASON_OF.get(message.abort.reason, Reason.PROTOCOL)
            return Abort(transfer, reason, _cut(message.abort.text))
        case "query":
            return Query(transfer)
        case "state":
            state = message.state
            _require(state.phase in _PHASE_OF, "state.phase", "one of this version")
            return State(transfer, _PHASE_OF[state.phase], state.grants, state.objects)
        case _:
            raise NoWord("a message without a body of this version")


def _offer(transfer: TransferId, offer: pd_pb2.PdOffer) -> Offer:
    chunks, torn = divmod(len(offer.chunk_keys), KEY_BYTES)
    slots, sizes = tuple(offer.slots), tuple(offer.logical_bytes)
    _require_id(offer.request_id)
    _require(len(offer.epoch) == EPOCH_BYTES, "offer.epoch", f"{EPOCH_BYTES} bytes")
    _require(len(offer.namespace_digest) == KEY_BYTES, "offer.namespace_digest", "32 bytes")
    _require(not torn and 1 <= chunks <= CHUNKS_MAX, "offer.chunk_keys", f"1 to {CHUNKS_MAX} keys")
    is_ascending = all(one < after for one, after in pairwise(slots))
    is_bounded = bool(slots) and is_ascending and slots[-1] < SLOTS_BOUND
    _require(is_bounded, "offer.slots", f"ascending, at least one, below {SLOTS_BOUND}")
    _require(len(slots) == len(sizes), "offer.logical_bytes", "one for each slot")
    _require(chunks * len(slots) <= OBJECTS_MAX, "offer", f"at most {OBJECTS_MAX} objects")
    _require(offer.priority <= PRIORITY_MAX, "offer.priority", f"at most {PRIORITY_MAX}")
    _require(1 <= offer.within_ms <= WITHIN_MS_MAX, "offer.within_ms", f"1 to {WITHIN_MS_MAX}")
    _require(len(offer.slices) <= SLOTS_BOUND, "offer.slices", f"at most {SLOTS_BOUND}")
    slices = tuple(
        Slice(one.slot, one.first_layer, one.layers, one.first_head, one.heads)
        for one in offer.slices
    )
    return Offer(
        transfer,
        offer.request_id,
        Epoch(offer.epoch),
        offer.namespace_digest,
        offer.chunk_keys,
        slots,
        sizes,
        offer.priority,
        offer.within_ms / 1000,
        slices,
    )


def _grant(transfer: TransferId, grant: pd_pb2.PdGrant) -> Grant:
    _require_id(grant.request_id)
    _require(len(grant.epoch) == EPOCH_BYTES, "grant.epoch", f"{EPOCH_BYTES} bytes")
    _require(grant.first_chunk < CHUNKS_MAX, "grant.first_chunk", f"below {CHUNKS_MAX}")
    _require(0 < len(grant.needs) <= OBJECTS_MAX, "grant.needs", f"1 to {OBJECTS_MAX} objects")
    _require(not grant.needs.strip(b"\0\1"), "grant.needs", "bytes of 0 and 1")
    _require(
        len(grant.landing) <= GRANT_BYTES_MAX, "grant.landing", f"at most {GRANT_BYTES_MAX} bytes"
    )
    epoch, first = Epoch(grant.epoch), grant.first_chunk
    return Grant(transfer, grant.request_id, epoch, first, grant.needs, grant.landing)


def _require_id(request_id: str) -> None:
    is_bounded = 1 <= len(request_id) <= REQUEST_ID_CHARS_MAX
    _require(is_bounded, "request_id", f"1 to {REQUEST_ID_CHARS_MAX} characters")


def _require(is_so: bool, field: str, wanted: str) -> None:
    if not is_so:
        raise NoWord(f"{field}: {wanted}")


_REASONS = {reason: pd_pb2.PdReason.Value(f"PD_REASON_{reason.name}") for reason in Reason}
_REASON_OF = {number: reason for reason, number in _REASONS.items()}
_PHASES = {phase: pd_pb2.PdPhase.Value(f"PD_PHASE_{phase.name}") for phase in Phase}
_PHASE_OF = {number: phase for phase, number in _PHASES.items()}
