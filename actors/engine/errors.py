"""What can go wrong between an engine and its node, by whose deed, and how a refusal on the wire becomes an error.

Requests of an engine (`Client.lookup`, `load`, `store`, `prefetch`, `touch`) excuse everything that is not the
caller's own fault: a node that is away, late or full is a miss, counted in `Client.statistics()`. `EXCUSED` says
what is excused. The finer calls (`Ticket.acquire`, leases, `stat`, `health`) raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from penstock.actors.api.errors import RankTaken
from penstock.protos import common_pb2
from penstock.runtime.errors import (
    CallerError,
    CapacityError,
    DeadlineExceeded,
    PenstockError,
    StaleError,
    UnavailableError,
)

EXCUSED = (UnavailableError, CapacityError, StaleError, DeadlineExceeded)
"""A request that meets one of these is a miss, never an error of the engine."""


class RequestRefused(CallerError):
    """Yours: the node says the request can never succeed as it is; the message names the field."""


class RequestTooLarge(CallerError):
    """Yours: the request is over a limit that the node told at attach, or over one of the client's own."""


class AccessDenied(CallerError):
    """Yours: the node does not accept the token, the certificate or the session secret."""


class VersionMismatch(CallerError):
    """Yours: node and client speak protocol versions that do not overlap. Upgrade the older one."""


class DeclarationMismatch(CallerError):
    """Yours: what the engine declares contradicts itself or another process of the same engine instance."""


class NamespaceMismatch(CallerError):
    """Ours: node and client derive different keys from one declaration, so no key of one would mean anything
    to the other. They are of different versions; run the same one on both sides."""


class ClientClosed(CallerError):
    """Yours: the client was used outside its `async with`, or after `close()`."""


class ForkedClient(CallerError):
    """Yours: the client was made before a fork and used in the child. Make one in the child."""


class MovesNoBytes(CallerError):
    """Yours: this process declared no shard of its own (or came over TCP), so it has no arena to copy from or to."""


class BadBlocks(CallerError):
    """Yours: layouts, block ids, layers or skipped tokens that do not fit the objects."""


class RankBusy(CallerError):
    """Yours: this process reads under the lease of that rank already. Await that load or end that lease first, or look
    up with more `readers` and give each of those who load at once a rank of its own."""


class StaleGrant(StaleError):
    """History: the ticket or lease is over. What was copied under it does not count."""


class StaleEpoch(StaleGrant):
    """History: the ticket or lease belongs to a session or an epoch that has ended."""


class NodeExhausted(CapacityError):
    """Nobody's: the node is at one of its bounds for this engine. Try again later."""


class NodeAway(UnavailableError):
    """Theirs: no session is attached just now. The client attaches again by itself."""


class StreamLost(NodeAway):
    """Theirs: the session's stream ended while the request was under way. It may or may not have taken effect."""


class NodeSilent(NodeAway):
    """Theirs: the node has missed its heartbeats. Requests are refused until it says something."""


class NodeFailed(UnavailableError):
    """Theirs: a part of the node failed with the request in hand; the part restarts."""


class ProtocolBroken(UnavailableError):
    """Theirs: the other side says something that the contract does not allow."""


class ClientCrashed(UnavailableError):
    """Ours: the thread that serves a BlockingClient died of a bug, which the message names. Make a new client."""


class TooManyWaiting(CapacityError):
    """Yours, for now: `waiting_max` futures of a BlockingClient are not settled yet, so one more request is not taken.
    Wait for some of them first, or raise `waiting_max`."""


Refusal = Callable[[str], PenstockError]

REFUSALS: Mapping[int, Refusal] = MappingProxyType(
    {
        common_pb2.ERROR_CODE_MALFORMED: RequestRefused,
        common_pb2.ERROR_CODE_INVALID: RequestRefused,
        common_pb2.ERROR_CODE_TOO_LARGE: RequestTooLarge,
        common_pb2.ERROR_CODE_NOT_ATTACHED: StreamLost,
        common_pb2.ERROR_CODE_STALE: StaleGrant,
        common_pb2.ERROR_CODE_RANK_TAKEN: RankTaken,
        common_pb2.ERROR_CODE_DENIED: AccessDenied,
        common_pb2.ERROR_CODE_EXHAUSTED: NodeExhausted,
        common_pb2.ERROR_CODE_DEADLINE: DeadlineExceeded,
        common_pb2.ERROR_CODE_UNAVAILABLE: NodeAway,
        common_pb2.ERROR_CODE_VERSION: VersionMismatch,
        common_pb2.ERROR_CODE_MISMATCH: DeclarationMismatch,
        common_pb2.ERROR_CODE_INTERNAL: NodeFailed,
    }
)


def refusal_of(error: common_pb2.Error) -> PenstockError:
    """The typed error that a refusal on the wire stands for. A code this client does not know is NodeFailed."""
    is_named = not error.field or error.message.startswith(error.field)
    words = error.message if is_named else f"{error.field}: {error.message}"
    return REFUSALS.get(error.code, NodeFailed)(words or f"refused with code {error.code}")
