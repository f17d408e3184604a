"""Who may use a store now: loads first, one save always, bounds kept."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.actors.api.errors import StoreBusy, StoreClogged
from penstock.actors.core.admission import Admission, AdmissionLimits, Entry, Phase, Work


def admission(
    loads: int = 2, saves: int = 2, size: int = 100, waiting: int = 8, places: int = 1
) -> Admission:
    return Admission(AdmissionLimits(loads, saves, size, waiting, places))


def test_waiting_loads_go_before_waiting_saves() -> None:
    """B15: saves never starve loads."""
    room = admission(loads=1, saves=2)
    first = room.enter(Work.LOAD, 1)
    saves = [room.enter(Work.SAVE, 1) for _ in range(3)]
    loads = [room.enter(Work.LOAD, 1) for _ in range(3)]
    assert [one.phase for one in saves] == [Phase.RUNNING, Phase.RUNNING, Phase.WAITING]
    room.leave(saves[0])
    assert saves[2].phase is Phase.WAITING, "loads wait, and a save is running already"
    assert room.leave(first) == [loads[0]]
    assert room.leave(loads[0]) == [loads[1]]
    assert room.leave(loads[1]) == [loads[2], saves[2]], "no load waits any more"


def test_one_save_always_makes_progress() -> None:
    """B15: a store that is read all the time is written, too."""
    room = admission(loads=1, saves=4, size=10)
    loads = [room.enter(Work.LOAD, 10) for _ in range(4)]
    saves = [room.enter(Work.SAVE, 10) for _ in range(2)]
    assert loads[0].phase is saves[0].phase is Phase.RUNNING
    assert saves[1].phase is Phase.WAITING
    assert room.leave(saves[0]) == [saves[1]]


def test_a_batch_beyond_the_bound_goes_alone_and_nothing_beside_it() -> None:
    room = admission(loads=4, size=10)
    huge = room.enter(Work.LOAD, 1000)
    small = room.enter(Work.LOAD, 1)
    assert (huge.phase, small.phase) == (Phase.RUNNING, Phase.WAITING)
    assert room.leave(huge) == [small]


def test_who_waits_no_more_leaves_its_place() -> None:
    room = admission(loads=1, waiting=1)
    first, second = room.enter(Work.LOAD, 1), room.enter(Work.LOAD, 1)
    with pytest.raises(StoreBusy, match="1 loads wait"):
        room.enter(Work.LOAD, 1)
    assert room.leave(second) == []
    third = room.enter(Work.LOAD, 1)
    assert room.leave(first) == [third]
    assert room.leave(second) == [], "leaving twice changes nothing"


def test_what_was_given_up_has_no_place_and_keeps_its_bytes() -> None:
    """A2: whoever hangs may still touch them; loads that do not fit beside them are refused, saves are not."""
    room = admission(loads=2, size=100)
    first, second = room.enter(Work.LOAD, 60), room.enter(Work.LOAD, 60)
    assert second.phase is Phase.WAITING
    assert room.give_up(first) == [], "it does not fit beside what was given up"
    assert (room.running(Work.LOAD), room.waiting(Work.LOAD)) == (0, 1)
    with pytest.raises(StoreClogged, match="60 bytes of loads"):
        room.enter(Work.LOAD, 50)
    assert not room.is_open(50)
    assert room.enter(Work.SAVE, 90).phase is Phase.RUNNING
    room.validate()
    assert room.leave(first) == [second]
    room.validate()


def test_saves_to_one_place_leave_the_others_theirs() -> None:
    """B15: a folder or device that hangs. Seen to fail without places: it had all four."""
    room = admission(saves=4, places=2)
    hung = [room.enter(Work.SAVE, 1, place=0) for _ in range(4)]
    other = [room.enter(Work.SAVE, 1, place=1) for _ in range(3)]
    assert [one.phase for one in hung] == [Phase.RUNNING] * 2 + [Phase.WAITING] * 2
    assert [one.phase for one in other] == [Phase.RUNNING] * 2 + [Phase.WAITING]
    assert room.leave(other[0]) == [other[2]]
    room.validate()
    assert room.leave(hung[0]) == [hung[2]], "in their order"
    assert room.leave(hung[1]) == [hung[3]]


def test_each_of_many_places_may_have_one_save() -> None:
    """Seen to fail: four that hung took all four."""
    room = admission(saves=4, places=6)
    hung = [room.enter(Work.SAVE, 1, place=place) for place in range(5) for _ in range(2)]
    assert [one.phase for one in hung] == [Phase.RUNNING, Phase.WAITING] * 5
    assert room.enter(Work.SAVE, 1, place=5).phase is Phase.RUNNING
    room.validate()


@pytest.mark.parametrize("places", range(2, 9))
@pytest.mark.parametrize("saves", range(1, 17))
def test_a_place_starts_though_all_others_hang(saves: int, places: int) -> None:
    """Seen to fail with parts rounded up: two places that hung held the four saves of three."""
    room = admission(saves=saves, places=places, waiting=1024)
    for place in range(places - 1):
        for _ in range(saves):
            room.enter(Work.SAVE, 1, place=place)
    assert room.enter(Work.SAVE, 1, place=places - 1).phase is Phase.RUNNING
    room.validate()


def test_a_place_starts_though_loads_have_all_the_room() -> None:
    """B15. Seen to fail: while one place hung, loads kept every other from being written."""
    room = admission(loads=4, saves=4, size=100, places=2)
    room.enter(Work.SAVE, 50, place=0)
    for _ in range(2):
        room.enter(Work.LOAD, 50)
    assert room.enter(Work.SAVE, 50, place=1).phase is Phase.RUNNING
    room.validate()


def test_what_goes_to_several_places_hides_none() -> None:
    room = admission(saves=4, places=2)
    for place in (-1, 0):
        for _ in range(3):
            room.enter(Work.SAVE, 1, place=place)
    assert room.enter(Work.SAVE, 1, place=1).phase is Phase.RUNNING
    room.validate()


def test_a_place_has_its_part_of_the_bytes_and_of_those_that_wait() -> None:
    room = admission(saves=8, size=100, waiting=4, places=2)
    hung = [room.enter(Work.SAVE, 20, place=0) for _ in range(4)]
    assert [one.phase for one in hung] == [Phase.RUNNING] * 2 + [Phase.WAITING] * 2
    with pytest.raises(StoreBusy, match="2 saves wait for one path or device"):
        room.enter(Work.SAVE, 20, place=0)
    assert room.enter(Work.SAVE, 50, place=1).phase is Phase.RUNNING
    room.validate()


def test_one_save_to_each_place_goes_beside_loads_that_wait() -> None:
    """B15: the one that always may go may be to a place that hangs."""
    room = admission(loads=1, saves=4, places=2)
    for _ in range(2):
        room.enter(Work.LOAD, 1)
    saves = [room.enter(Work.SAVE, 1, place=place) for place in (0, 0, 1, 1)]
    assert [one.phase for one in saves] == [Phase.RUNNING, Phase.WAITING] * 2
    room.validate()


class Life(RuleBasedStateMachine):
    @initialize(
        loads=st.integers(1, 3),
        saves=st.integers(1, 3),
        size=st.integers(1, 50),
        places=st.integers(1, 3),
    )
    def start(self, loads: int, saves: int, size: int, places: int) -> None:
        self.places = places
        self.room = admission(loads, saves, size, waiting=6, places=places)
        self.inside: list[Entry] = []
        self.given_up: list[Entry] = []

    @rule(work=st.sampled_from(Work), size=st.integers(0, 60), place=st.integers(0, 2))
    def enter(self, work: Work, size: int, place: int) -> None:
        place = place % self.places if work is Work.SAVE else 0
        try:
            self.inside.append(self.room.enter(work, size, place))
        except StoreClogged:
            assert work is Work.LOAD
            assert sum(one.bytes for one in self.given_up) > 0
        except StoreBusy:
            there = [e for e in self.inside if e.work is work and e.place == place]
            waiting = sum(e.phase is Phase.WAITING for e in there)
            assert waiting == (6 // self.places if work is Work.SAVE else 6)

    @precondition(lambda self: self.inside)
    @rule(pick=st.integers(0, 1 << 16))
    def leave(self, pick: int) -> None:
        entry = self.inside.pop(pick % len(self.inside))
        waited = [one for one in self.inside if one.phase is Phase.WAITING]
        started = self.room.leave(entry)
        assert set(map(id, started)) <= set(map(id, waited))

    @rule(pick=st.integers(0, 1 << 16))
    def give_up(self, pick: int) -> None:
        running = [one for one in self.inside if one.phase is Phase.RUNNING]
        if running:
            entry = running[pick % len(running)]
            self.inside.remove(entry)
            self.given_up.append(entry)
            self.room.give_up(entry)

    @precondition(lambda self: self.given_up)
    @rule(pick=st.integers(0, 1 << 16))
    def come_back(self, pick: int) -> None:
        self.room.leave(self.given_up.pop(pick % len(self.given_up)))

    @invariant()
    def is_sound(self) -> None:
        if not hasattr(self, "room"):
            return
        self.room.validate()
        for work in Work:
            waiting = [e for e in self.inside if e.work is work and e.phase is Phase.WAITING]
            running = [e for e in self.inside if e.work is work and e.phase is Phase.RUNNING]
            assert len(waiting) == self.room.waiting(work)
            is_clogged = work is Work.LOAD and bool(self.given_up)
            assert not waiting or running or is_clogged, "one of each kind always makes progress"
            for place in range(self.places):
                in_order = [e for e in self.inside if e.work is work and e.place == place]
                phases = [e.phase for e in in_order]
                in_turn = sorted(phases, key=lambda phase: phase is Phase.WAITING)
                assert phases == in_turn, "in order"
        loads = [e for e in self.inside if e.work is Work.LOAD]
        assert self.room.load_bytes() == sum(e.bytes for e in loads)

    def teardown(self) -> None:
        if hasattr(self, "room"):
            while self.given_up:
                self.room.leave(self.given_up.pop())
            while self.inside:
                running = next(one for one in self.inside if one.phase is Phase.RUNNING)
                self.inside.remove(running)
                self.room.leave(running)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
