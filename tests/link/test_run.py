"""The table of runs behind a door: what it remembers, and that it remembers no more than that."""

from __future__ import annotations

import gc
import weakref

from foreman.core.errors import Code
from foreman.link.run import Run, Runs, runs_of
from tests.link.fakes import HEAD, FakeDoor


class Back:
    def __init__(self):
        self.said = []

    def cancel(self, code):
        self.said.append(code)

    def credit(self, taken):
        self.said.append(taken)

    def over(self):
        self.said.append("over")


def begin(runs, door, job_id, epoch=1):
    door.expect(job_id)
    run = runs.begin(door, job_id, epoch, Back())
    assert isinstance(run, Run)
    run.start()
    return run


def test_only_so_many_ended_epochs_are_remembered(monkeypatch):
    monkeypatch.setattr("foreman.link.run._REMEMBERED", 3)
    runs, door = Runs(), FakeDoor()
    for n in range(5):
        begin(runs, door, f"job-{n}", epoch=7).back()
    assert runs._epochs == {"job-2": 7, "job-3": 7, "job-4": 7}
    begin(runs, door, "job-2", epoch=8).back()
    assert list(runs._epochs.items()) == [("job-3", 7), ("job-4", 7), ("job-2", 8)]
    assert runs.begin(door, "job-4", 7, Back()) is Code.INTERRUPTED


def test_a_door_has_one_table_and_takes_it_with_it():
    door = FakeDoor()
    begin(runs_of(door), door, "job-1").back()
    assert runs_of(door) is runs_of(door)
    assert runs_of(door) is not runs_of(FakeDoor())
    gone = weakref.ref(door)
    del door
    gc.collect()
    assert gone() is None


def test_a_run_that_is_over_says_nothing_more_either_way():
    door, back = FakeDoor(), Back()
    sink = door.expect("job-1")
    run = Runs().begin(door, "job-1", 1, back)
    run.start()
    run.head(HEAD)
    run.end()
    for call in (run.working, run.end, run.back, run.lost, run.superseded, lambda: run.data(b"late")):
        call()
    run.broken("late")
    run.cancel(Code.CANCELLED)
    run.credit(5)
    assert sink.names == ["started", "head", "end"]
    assert back.said == ["over"]
