"""What must hold of the node's inside: after every step, when all sessions have ended, and when L1 was purged."""

from __future__ import annotations

from session_client import Context, Violation
from session_world import World

from penstock.runtime.supervisor import ChildState

# Why the node may end a stream whose client has not hung up.
_STALLED = "the client read nothing for"
_SILENT = "nothing heard for"
_NO_HELLO = "no acceptable Hello in time"
_LOST = ("resumed by a new stream", "its process is gone")
_FULL = "the bound is gateway.streams_max"


def require(holds: object, says: str) -> None:
    if not holds:
        raise Violation(says)


def check_end(context: Context) -> None:
    """A stream ended that the client had not hung up: only for a reason that is the client's doing."""
    why = context.end_details
    is_tcp = not context.peer_name.startswith("unix:")
    is_owed = (
        (why.startswith(_STALLED) and context.had_stalled)
        or (why.startswith(_SILENT) and is_tcp)
        or (why == _NO_HELLO and context.welcome is None)
        or (why in _LOST and context.welcome is not None)
        or why.endswith(_FULL)
    )
    require(is_owed, f"the node ended the stream of {context.peer_name}: {why or 'no word of why'}")


def check_bounds(world: World) -> None:
    """Every bound of the configuration, at any moment."""
    limits, streams = world.limits, world.streams
    require(streams._open <= limits.streams_max, "more streams than gateway.streams_max")
    require(len(streams.attached) <= streams._open, "more streams attached than open")
    for stream in streams.attached.values():
        requests, prompts = stream._requests, stream._requests.prompts
        requests.holdings.validate()
        require(stream._carried_on <= limits.inflight_max, "more in flight than inflight_max")
        waiting_max = limits.outgoing_max + limits.inflight_max
        require(len(stream._outgoing) <= waiting_max, "more replies wait than may")
        require(len(stream._moved) <= limits.tickets_max, "news of more tickets than there can be")
        kept = sum(one.kept_bytes for one in prompts._kept.values())
        require(kept == prompts._kept_bytes, "remembered prompts are counted wrongly")
        require(kept <= limits.kept_prompt_bytes_max, "more is remembered of prompts than may be")
    world.keeper._attachments.validate()
    world.manager._watching._watches.validate()
    require(len(world.manager._tenants._numbers) <= world.config.l1.tenants_max, "too many tenants")


def check_counted(world: World) -> None:
    """While nothing is under way: what the table holds for living sessions is what they are charged with."""
    numbers = world.table.statistics()
    holdings = [stream._requests.holdings for stream in world.streams.attached.values()]
    for name, counted in (
        ("leases", sum(len(one._leases) for one in holdings)),
        ("tickets", sum(len(one._tickets) for one in holdings)),
    ):
        held = getattr(numbers, name)
        require(held <= counted, f"{held} {name} live, sessions are charged with {counted}")


def check_nothing_held(world: World) -> None:
    """All sessions are over and their processes proven gone."""
    world.table.validate()
    numbers = world.table.statistics()
    for name in ("leases", "overdue_leases", "tickets"):
        left = getattr(numbers, name)
        require(left == 0, f"{left} {name} are left in the table")
    require(
        numbers.sessions == 1, f"{numbers.sessions} sessions are left, the node's own among them"
    )
    for state in ("reserved", "loaded", "quarantined", "pinned"):
        left = getattr(numbers, f"bytes_{state}")
        require(left == 0, f"{left} bytes stay {state}")
    require(not world.streams.attached, "a stream that ended counts as attached")
    attachments = world.keeper._attachments
    require(not attachments._sessions, f"sessions are left: {attachments._sessions}")
    require(not attachments._by_secret, "secrets are left")
    require(not attachments._instances, "instances are left")
    require(not len(world.manager._watching._watches), "tickets are still watched")
    require(not world.manager._watching._watchers, "somebody still watches tickets")


def check_empty(world: World) -> None:
    """And L1 was purged: every byte is free again."""
    world.table.validate()
    numbers = world.table.statistics()
    for name in ("chunks", "placeholders", "objects"):
        left = getattr(numbers, name)
        require(left == 0, f"{left} {name} are left in the table")
    require(numbers.bytes_free == numbers.bytes_total, "bytes of the arena are missing")
    require(numbers.largest_free_bytes == numbers.bytes_total, "the free arena is in pieces")


def check_actors(world: World) -> None:
    """None has died, and none has anything to do."""
    for child in world.supervisor.health():
        require(child.restarts_total == 0, f"{child.name} died: {child.last_crash}")
        require(child.state is ChildState.RUNNING, f"{child.name} is {child.state.value}")
        mailbox = child.mailbox
        require(mailbox.queued_peak <= mailbox.queued_max, f"{child.name}: its mailbox overflowed")
        require(mailbox.queued == mailbox.waiting == 0, f"{child.name}: messages are left")
