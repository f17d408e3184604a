"""What a client has done, and what it has excused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from penstock.actors.engine.counting import Loaded, Stored
from penstock.actors.engine.errors import EXCUSED
from penstock.actors.engine.ticket import Ticket
from penstock.runtime.log import Log


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Counts since the client was made. A miss that was excused is among its requests too."""

    lookups: int
    lookup_chunks: int
    hit_chunks: int  # at the time of the lookup
    loaded_tokens: int
    loaded_bytes: int
    stored_chunks: int
    stored_bytes: int
    damaged_objects: int
    attachments: int  # sessions attached so far; 1: none was lost
    excused: Mapping[str, int]  # by "request: error class": would have been an error and was a miss


class Accounts:
    """The running counts behind `ClientStatistics`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._counts: Counter[str] = Counter()
        self._excused: Counter[str] = Counter()

    def excusing(self, request: str) -> Excusing:
        """A block in which `EXCUSED` errors are counted and end the block; what follows it is the miss."""
        return Excusing(self, request)

    def excuse(self, request: str, error: BaseException) -> None:
        name = f"{request}: {type(error).__name__}"
        self._excused[name] += 1
        self._log.warning_once("excused", name, request=name, reason=str(error))

    def looked_up(self, ticket: Ticket) -> Ticket:
        self._counts["lookups"] += 1
        self._counts["lookup_chunks"] += ticket.total_chunks
        self._counts["hit_chunks"] += ticket.hit_chunks
        return ticket

    def loaded(self, loaded: Loaded) -> Loaded:
        self._counts["loaded_tokens"] += loaded.tokens
        self._counts["loaded_bytes"] += loaded.bytes
        if loaded.damaged_objects:
            self._counts["damaged_objects"] += loaded.damaged_objects
            self._log.warning("damaged_objects", count=loaded.damaged_objects)
        return loaded

    def stored(self, stored: Stored) -> Stored:
        self._counts["stored_chunks"] += stored.chunks_written
        self._counts["stored_bytes"] += stored.bytes
        return stored

    def statistics(self, *, attachments: int) -> ClientStatistics:
        counts = self._counts
        return ClientStatistics(
            lookups=counts["lookups"],
            lookup_chunks=counts["lookup_chunks"],
            hit_chunks=counts["hit_chunks"],
            loaded_tokens=counts["loaded_tokens"],
            loaded_bytes=counts["loaded_bytes"],
            stored_chunks=counts["stored_chunks"],
            stored_bytes=counts["stored_bytes"],
            damaged_objects=counts["damaged_objects"],
            attachments=attachments,
            excused=dict(self._excused),
        )


class Excusing:
    """See `Accounts.excusing`."""

    __slots__ = ("_accounts", "_request")

    def __init__(self, accounts: Accounts, request: str) -> None:
        self._accounts = accounts
        self._request = request

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, EXCUSED):
            self._accounts.excuse(self._request, error)
            return True
        return False
