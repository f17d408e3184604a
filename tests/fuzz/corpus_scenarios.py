"""The inputs that fuzzing starts from, by name: each way through the session code, each bug that was found in it."""

from __future__ import annotations

from collections.abc import Iterator

from session_growth import key_chain
from session_input import Input, Kind, Named, Profile, Step, symbol
from session_requests import (
    Request,
    abort,
    acquire,
    cancel,
    commit,
    delta,
    heartbeat,
    hello,
    lookup,
    pd_cancel,
    pd_expect,
    pd_send,
    pd_wait,
    prefetch,
    prompt,
    release,
    reserve,
    stat,
    touch,
)


def scenarios() -> Iterator[tuple[str, Input]]:
    """Names are file names; they say what happens."""
    for name, steps in {
        **_ordinary(),
        **_pushes(),
        **_ends(),
        **_full(),
        **_wrong(),
        **_found(),
    }.items():
        yield name, Input(tuple(steps))
    for name, (doublings, request) in _long().items():
        grow = Step(Kind.GROW, 0, bytes([doublings]) + request.SerializeToString())
        first = () if request.HasField("hello") else (say(hello()),)
        yield f"long_{name}", Input((*first, grow), profile=Profile.SHIPPED)


def say(request: Request, stream: int = 0) -> Step:
    return Step(Kind.MESSAGE, stream, request.SerializeToString())


def wait(seconds: float) -> Step:
    return Step(Kind.WAIT, 0, round(seconds * 100).to_bytes(2, "little"))


WRITE = [say(hello()), say(reserve(prompt(chunks=3))), say(commit(count=6))]
READ = [say(lookup(prompt(chunks=4))), say(acquire()), say(release())]


def _ordinary() -> dict[str, list[Step]]:
    return {
        "write_read": [*WRITE, *READ, say(cancel())],
        "write_read_tokens": [
            say(hello()),
            say(reserve(prompt(chunks=3, tokens=True, salt=b"tenant"))),
            say(commit(0, 1)),
            say(commit(2, 3, 4, 5, runs=6)),
            say(lookup(prompt(chunks=3, tokens=True, salt=b"tenant"))),
            say(lookup(delta(base=1, base_chunks=2, more=2))),
            say(reserve(delta(base=1))),
            say(abort()),
        ],
        "two_ranks_of_a_ticket": [
            *WRITE,
            say(hello(instance=0), 1),
            say(lookup(prompt(chunks=3), readers=2)),
            say(acquire(rank=0)),
            say(acquire(rank=0), 1),
            say(acquire(rank=1, first_chunk=2), 1),
            say(release(0), 1),
            say(release(nth=1)),
        ],
        "progress": [
            say(hello()),
            say(hello(instance=1), 1),
            say(reserve(prompt(chunks=4))),
            say(lookup(prompt(chunks=4), name="r"), 1),
            say(commit(0, 1)),
            say(commit(2, 3)),
            say(lookup(prompt(chunks=4), name="r"), 1),
            say(abort()),
            say(acquire(), 1),
        ],
        "named_requests": [
            *WRITE,
            say(lookup(prompt(chunks=3), name="r", ticket_ms=100)),
            say(lookup(prompt(chunks=2), name="r")),
            wait(1),
            say(lookup(prompt(chunks=2), name="r")),
            say(lookup(prompt(family=3), name="r")),
        ],
        "hints": [
            *WRITE,
            say(touch(prompt())),
            say(prefetch(prompt())),
            say(stat()),
            say(heartbeat()),
        ],
    }


def _pushes() -> dict[str, list[Step]]:
    return {
        "pushes": [
            *WRITE,
            say(hello(instance=1), 1),
            say(pd_send(prompt(chunks=4))),
            say(pd_wait()),
            say(pd_wait(), 1),
            say(pd_cancel(), 1),
            say(pd_cancel()),
            say(pd_expect(prompt(chunks=4), readers=2)),
            say(acquire()),
            say(pd_expect(prompt(chunks=4), readers=2)),
            say(pd_expect(prompt(family=2)), 1),
            say(pd_expect(prompt(chunks=2))),
            say(cancel()),
            *[say(pd_send(prompt())) for _ in range(5)],
        ],
    }


def _ends() -> dict[str, list[Step]]:
    enter, gone = Step(Kind.ENTER_ARENA), Step(Kind.PROCESS_EXITS)
    hang_up, cancelled = Step(Kind.HANG_UP), Step(Kind.CANCEL)
    leases = [*WRITE, say(lookup(prompt())), say(acquire()), say(reserve(prompt(family=1)))]
    return {
        "hang_up_holding": [*leases, hang_up, say(hello())],
        "cancelled_holding": [*leases, cancelled],
        "cancelled_while_ending": [*leases, hang_up, cancelled],
        "process_dies_holding": [say(hello()), enter, *leases[1:], gone, say(hello()), say(stat())],
        "stream_lost_then_process_dies": [say(hello()), enter, *leases[1:], hang_up, gone],
        "stream_lost_then_resumed": [
            say(hello()),
            enter,
            *leases[1:],
            cancelled,
            say(hello(resume=True)),
            say(lookup(prompt())),
        ],
        "resumed_while_attached": [*leases, say(hello(resume=True), 1), say(lookup(prompt()), 1)],
        "leases_expire": [
            *WRITE,
            say(lookup(prompt(), ticket_ms=100)),
            say(acquire(lease_ms=50)),
            say(reserve(prompt(family=1), lease_ms=50)),
            wait(1),
            say(release()),
            say(commit(count=8)),
            say(acquire()),
        ],
        "silent_over_tcp": [say(hello(), 2), say(reserve(prompt()), 2), say(hello(), 3), wait(10)],
        "client_reads_nothing": [
            say(hello()),
            Step(Kind.STOP_READING),
            *[say(heartbeat(index)) for index in range(2, 12)],
            wait(5),
            say(hello()),
        ],
        "client_reads_late": [
            *WRITE,
            Step(Kind.STOP_READING),
            *[say(lookup(prompt())) for _ in range(8)],
            wait(1),
            Step(Kind.READ_ON),
        ],
    }


def _full() -> dict[str, list[Step]]:
    families = range(4)
    return {
        "evicts_for_room": [
            say(hello()),
            *[
                step
                for family in families
                for step in (say(reserve(prompt(family=family, chunks=8))), say(commit(count=16)))
            ],
            say(lookup(prompt(family=3, chunks=8))),
            Step(Kind.PURGE),
        ],
        "no_room_while_held": [
            say(hello()),
            *[say(reserve(prompt(family=family, chunks=8))) for family in families],
            say(abort(nth=1)),
            say(reserve(prompt(family=9, chunks=31))),
        ],
        "quota": [
            say(hello()),
            *[say(reserve(prompt(family=family, salt=b"greedy"))) for family in families],
            *[say(reserve(prompt(salt=b"tenant %d" % index))) for index in range(6)],
        ],
        "too_many_leases_and_tickets": [
            *WRITE,
            *[say(lookup(prompt())) for _ in range(8)],
            *[say(acquire(nth=index)) for index in range(8)],
        ],
        "too_many_sessions": [
            *[
                step
                for index in range(7)
                for step in (
                    say(hello(instance=index)),
                    Step(Kind.ENTER_ARENA),
                    say(reserve(prompt(family=index, chunks=1))),
                    Step(Kind.HANG_UP),
                )
            ],
            say(hello(instance=8)),
        ],
    }


def _wrong() -> dict[str, list[Step]]:
    damaged = bytearray(hello().SerializeToString())
    damaged[40] ^= 0x80
    return {
        "garbage": [
            Step(Kind.MESSAGE, 0, b"\x08\x07garbage"),
            say(hello()),
            Step(Kind.MESSAGE, 0, b"\xff"),
        ],
        "damaged_hello": [Step(Kind.MESSAGE, 0, bytes(damaged)), say(hello()), say(hello())],
        "not_attached": [say(lookup(prompt())), say(Request()), say(stat())],
        "oversized": [
            say(hello()),
            Step(Kind.MESSAGE, 0, b"\x08\x05" + bytes(20_000)),
            say(stat()),
        ],
        "readers_out_of_range": [
            say(hello()),
            *[say(lookup(prompt(), readers=readers)) for readers in (0, 128, 129, 2**32 - 1)],
        ],
        "indices_out_of_range": [
            *WRITE,
            say(lookup(prompt())),
            say(acquire()),
            say(release(0, 99)),
            say(reserve(prompt(family=1))),
            say(commit(0, 99)),
            say(commit(0, 0)),
            say(commit(count=3)),
        ],
        "ids_of_nobody": [
            say(hello()),
            say(acquire()),
            say(release()),
            say(commit()),
            say(abort()),
            say(cancel()),
        ],
        "leases_of_another": [
            *WRITE,
            say(reserve(prompt(family=2))),
            say(hello(instance=1), 1),
            say(abort(), 1),
            say(commit(count=8), 1),
        ],
        "moves_no_bytes": [
            say(hello(moves_bytes=False)),
            say(reserve(prompt())),
            say(lookup(prompt())),
        ],
        "parent_unknown": [say(hello()), say(reserve(prompt(), parent=key_chain(7, 1)))],
        "delta_of_nothing": [
            say(hello()),
            say(lookup(delta(base=1))),
            say(lookup(delta(base=2**63))),
        ],
    }


def _found() -> dict[str, list[Step]]:
    """Bugs that fuzzing found, in the form that shows them soonest."""
    return {**_found_in_leases(), **_found_in_tickets()}


def _found_in_leases() -> dict[str, list[Step]]:
    one_index_six_digests = commit(5)
    one_index_six_digests.commit.digests = bytes(48)
    release_of_a_reservation = release()
    release_of_a_reservation.release.lease = symbol(Named.WRITE_LEASE)
    abort_of_a_read_lease = abort()
    abort_of_a_read_lease.abort.lease = symbol(Named.READ_LEASE)
    return {
        # Leases ended by the wrong word, or committed twice, lived on but did not count against the session's bound.
        "found_leases_that_do_not_count": [
            *WRITE,
            say(lookup(prompt())),
            say(acquire()),
            say(abort_of_a_read_lease),
            say(reserve(prompt(family=1))),
            say(commit(0, 1)),
            say(commit(0, 1)),
            say(commit(0, 1)),
            say(commit(0, 1)),
            say(reserve(prompt(family=2))),
            say(release_of_a_reservation),
        ],
        # A stale commit was answered with as many outcomes as it had digests.
        "found_outcomes_of_a_stale_commit": [
            say(hello()),
            say(reserve(prompt(chunks=3), lease_ms=50)),
            wait(1),
            say(one_index_six_digests),
        ],
    }


def _found_in_tickets() -> dict[str, list[Step]]:
    return {
        # The writer of a stream died of a ticket that was cancelled while its client did not read.
        "found_ticket_over_while_its_news_wait": [
            say(hello()),
            say(reserve(prompt())),
            say(hello(instance=1), 1),
            say(lookup(prompt()), 1),
            say(lookup(prompt()), 1),
            wait(0.1),
            Step(Kind.STOP_READING, 1),
            say(commit(count=8)),
            wait(0.1),
            say(cancel(), 1),
            say(cancel(nth=1), 1),
            say(stat(), 1),
            wait(0.1),
            Step(Kind.READ_ON, 1),
        ],
        # A ticket that was closed with its instance was still watched: giving the session up failed half-way.
        "found_watched_ticket_of_a_session_given_up": [
            say(hello()),
            say(reserve(prompt(chunks=3))),
            say(hello(resume=True), 1),
            say(lookup(prompt(chunks=3), name="r")),
        ],
        # A prompt shorter than a chunk, and a prefetch of which nothing is resident, were refused.
        "found_prompt_of_no_chunk": [
            say(hello()),
            say(lookup(prompt(chunks=0, tokens=True))),
            say(prefetch(prompt(family=5))),
            say(touch(prompt(chunks=0, tokens=True))),
            say(reserve(prompt(chunks=0, tokens=True))),
        ],
    }


def _long() -> dict[str, tuple[int, Request]]:
    """Requests as long as the shipped limits allow, or longer: how often to double, and what."""
    return {
        "hello": (5, hello()),
        "hello_beyond_its_bounds": (8, hello()),
        "lookup": (13, lookup(prompt())),
        "lookup_beyond_its_bounds": (14, lookup(prompt())),
        "lookup_tokens": (13, lookup(prompt(chunks=16, tokens=True))),
        "reserve": (13, reserve(prompt())),
        "prefetch": (13, prefetch(prompt())),
        "pd_send": (13, pd_send(prompt())),
        "pd_expect": (13, pd_expect(prompt())),
        "touch": (13, touch(prompt())),
        "commit": (14, commit()),
        "release": (14, release()),
    }
