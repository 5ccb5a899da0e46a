"""When a queued job will start, and who is ahead of it and why: a dry run of the scheduler's rules over lanes, not jobs.

The gateway asks me for `position`, `eta_seconds` and `waiting_for`; admission asks me before it refuses a deadline. I run
the rules of core.scheduler forward from the facts of one moment, residency by residency, at a cost of the lanes that are
visited. What will still arrive I know only as each lane's rate, so I am an estimate, promised to nobody.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.fairness import quantum, stay
from foreman.core.linger import linger
from foreman.core.scheduler import choose
from foreman.core.upcoming import Upcoming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.core.fairness import Policy
    from foreman.core.index import LaneIndex
    from foreman.core.views import LaneView, Resident, TargetView

STEPS: Final = 2000
"""Residencies a dry run looks ahead at most."""
_REST: Final = 0.6
"""Share of a run that one in flight has left on the mean: long ones are met more often."""
_BUSIEST: Final = 0.8
"""Share of its own pace at which a lane is at most thought to be called."""


class Why:
    """Why jobs of a lane are ahead: `Ahead.why`."""

    LANE: Final = "lane"
    """The job's own lane: they are due before it."""
    RESIDENT: Final = "resident"
    """It is loaded, and keeps its place while it drains."""
    LINGER: Final = "linger"
    """It is loaded and kept for its next call."""
    TURN: Final = "turn"
    """Its turn comes first."""
    CLASS: Final = "class"
    """It is of a higher class."""
    LOADING: Final = "loading"
    """The job's own lane is being loaded."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """One residency before the job's start."""

    lane: str
    target: str
    why: str
    """One of `Why`."""
    jobs: int
    """Queued jobs of it that start before ours."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What lies before a queued job."""

    eta_seconds: float
    """Until its target works on it, loads included."""
    position: int
    """1 + queued jobs that the dry run starts before it."""
    target: str
    """Where it is going to run."""
    loads: int
    """Loads before its start, that of its own lane included."""
    ahead: tuple[Ahead, ...]
    """Who comes before it, in order; empty: it starts at once, or after the load of its own lane."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A target that may take the job, as the dry run starts from it."""

    view: TargetView
    lanes: LaneIndex
    """All lanes with queued jobs that it may take; the job's own, too."""
    load_ends_at: float | None = None
    """When the load under way is expected to end; None where none is."""
    claimed: int = 1
    """Jobs that were claimed with that load, and run when it ends."""


def forecast(
    lane: str, ahead: int, prospects: Sequence[Prospect], now: float, policy: Policy, begun: int = 0
) -> Forecast | None:
    """When a queued job starts.

    Args:
        lane: Its lane, which stands in the `lanes` of at least one prospect.
        ahead: Jobs of its own lane that are due before it.
        prospects: The targets that are up and may take it.
        now: Seconds since the epoch, by the clock of the lanes' times.
        policy: The knobs.
        begun: Runs that began since the prospects were looked at; taken to be of the job's own lane.

    Returns:
        None where no prospect has the lane, or the end is further away than `STEPS` residencies.
    """
    return _DryRun(lane, ahead, prospects, now, policy, begun).run()


@dataclass(eq=False, slots=True)
class _Seat:
    """One place of one target in the dry run."""

    prospect: Prospect
    lane: str | None
    loaded_at: float
    load_seconds: float
    free: int
    """Slots that are free at `t`."""
    why: str
    model: str = ""
    resident: Resident | None = None
    """As it stands now; None once a lane of the dry run has the place."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A residency of another lane in the dry run."""

    lane: str
    target: str
    why: str
    jobs: float
    start: float
    end: float

    def jobs_until(self, moment: float) -> float:
        """How many of them have started by then."""
        if moment >= self.end or self.end <= self.start:
            return self.jobs
        return self.jobs * (moment - self.start) / (self.end - self.start)


class _DryRun:
    """All places of all prospects, each with the moment at which it decides next."""

    def __init__(
        self, lane: str, ahead: int, prospects: Sequence[Prospect], now: float, policy: Policy, begun: int
    ) -> None:
        self._lane, self._policy, self._now = lane, policy, now
        self._in_lane = self._ahead = float(ahead)
        self._left: dict[str, float] = {}
        self._gone: set[str] = set()
        self._queues = {prospect.view.name: Upcoming(prospect.lanes, self._gone) for prospect in prospects}
        self._loads = 0
        self._runs: list[_Stretch] = []
        self._seats: list[tuple[float, int, _Seat]] = []
        self._serial = 0
        self._places: dict[str, list[_Seat]] = {prospect.view.name: [] for prospect in prospects}
        """Target → the places that somebody has."""
        self._loads_until: dict[str, float] = {}
        """Target → when its last load ends that the dry run knows of: one at a time."""
        self._idle: list[tuple[float, _Seat]] = []
        """Places that nobody waits for, and since when."""
        self._homes: list[tuple[float, float, _Seat]] = []
        """Who drains the job's own lane until it starts: from when on, the seconds between two ends, and where."""
        self._start = math.inf
        """When they have come to the job."""
        for prospect in prospects:
            self._gone.update(resident.lane for resident in prospect.view.residents)
            if prospect.view.loading is not None:
                self._gone.add(prospect.view.loading)
        self._begun = begun
        for prospect in prospects:
            self._sit_down(prospect)

    def _sit_down(self, prospect: Prospect) -> None:
        view = prospect.view
        leaves = None if view.loading is not None else choose(prospect.lanes, view, self._now, self._policy).victim
        taken = len(view.residents) + (view.loading is not None)
        if view.loading is not None:
            until = self._loads_until[view.name] = max(self._now, prospect.load_ends_at or self._now)
            found = prospect.lanes.get(view.loading)
            load = 0.0 if found is None else found.load_seconds
            free = view.slots - prospect.claimed
            wait = found.pace(view.slots) if found is not None and free <= 0 else 0.0
            model = "" if found is None else found.model
            seat = _Seat(prospect, view.loading, until, load, max(0, free), Why.LOADING, model)
            self._push(until + wait, self._take(seat))
        for _ in range(min(view.places - taken, len(prospect.lanes))):
            self._push(self._now, _Seat(prospect, None, self._now, 0.0, 0, Why.TURN))
        seats = {resident.lane: self._take(self._resident(prospect, resident)) for resident in view.residents}
        for resident in sorted(view.residents, key=lambda resident: resident.lane != leaves):
            seat, found = seats[resident.lane], prospect.lanes.get(resident.lane)
            service = resident.service_seconds if found is None else found.service_seconds
            if resident.lane == leaves:  # chosen to go already: nothing more of it is claimed
                self._leave(self._now, _REST * service if resident.running else 0.0, found, seat)
                continue
            self._push(self._now + (_REST * service * 2 / (view.slots + 1) if seat.free <= 0 else 0.0), seat)

    def _resident(self, prospect: Prospect, resident: Resident) -> _Seat:
        """The place of a resident, less what began in it since it was looked at."""
        free = max(0, prospect.view.slots - resident.running)
        if resident.lane == self._lane:
            begun = min(self._begun, free)
            free, self._begun = free - begun, self._begun - begun
        since, load = resident.loaded_at, resident.load_seconds
        return _Seat(prospect, resident.lane, since, load, free, Why.RESIDENT, resident.model, resident)

    def _push(self, moment: float, seat: _Seat) -> None:
        self._serial += 1
        heapq.heappush(self._seats, (moment, self._serial, seat))

    def _take(self, seat: _Seat) -> _Seat:
        self._places[seat.prospect.view.name].append(seat)
        return seat

    def _give_up(self, seat: _Seat) -> None:
        if seat.lane is not None:
            self._places[seat.prospect.view.name].remove(seat)

    def _held(self, seat: _Seat) -> set[str]:
        """The models in the target's other places: a lane of theirs can take that one's place and no other (rule 7)."""
        return {other.model for other in self._places[seat.prospect.view.name] if other is not seat}

    def run(self) -> Forecast | None:
        """Step by step, the place that decides first coming first."""
        for _ in range(STEPS):
            if not self._seats or self._seats[0][0] >= self._start:
                return self._forecast(self._start, self._homes[0][2]) if self._homes else None
            moment, _, seat = heapq.heappop(self._seats)
            if seat.lane is None:
                self._next(moment, seat)
            else:
                self._drain(moment, seat)
        return None

    # ------------------------------------------------------------------------ one residency

    def _drain(self, moment: float, seat: _Seat) -> None:
        lane = seat.lane or ""
        view = seat.prospect.lanes.get(lane)
        end = self._end(seat, view)
        if lane == self._lane and view is not None:
            self._drain_ours(moment, end, seat, view)
            return
        left = 0.0 if view is None else self._left.get(lane, float(view.depth))
        if view is None or left <= 0:
            self._next(self._empty(moment, seat, view), seat)
            return
        pace = view.pace(seat.prospect.view.slots)
        work = left * pace / (1 - min(_BUSIEST, view.arrival_rate * pace))
        if moment + work <= end:
            self._note(seat, left, moment, moment + work)
            self._left[lane] = 0.0
            self._next(self._empty(moment + work, seat, view), seat)
            return
        served = left * max(0.0, end - moment) / work
        self._note(seat, served, moment, end)
        self._left[lane] = left - served
        self._leave(max(moment, end), view.service_seconds / 2, view, seat)

    def _drain_ours(self, moment: float, end: float, seat: _Seat, view: LaneView) -> None:
        pace = view.pace(seat.prospect.view.slots)
        need = 0.0 if self._ahead < seat.free else (self._ahead - max(0, seat.free - 1)) * pace
        if self._homes or moment + need < end:
            self._serve(moment, pace, seat)
            self._join()
            return
        self._ahead = max(0.0, self._ahead - max(0.0, end - moment) / pace)
        self._leave(max(moment, end), view.service_seconds / 2, view, seat)

    def _serve(self, moment: float, pace: float, seat: _Seat) -> None:
        """One place more drains the job's lane, from that moment on: when do they come to the job?"""
        self._homes.append((moment, pace, seat))
        left, speed = self._ahead + 1, 0.0
        self._start, since = math.inf, 0.0
        for begins, one, home in sorted(self._homes, key=lambda each: each[0]):
            left -= (begins - since) * speed + max(1, home.free)
            if left <= 0:  # before, or with the jobs that it takes at once
                before = left + max(1, home.free)
                self._start = begins if before > 0 else begins + before / speed
                return
            since, speed = begins, speed + 1 / one
        self._start = since + left / speed

    def _join(self) -> None:
        """Rule 8: an idle target takes the lane too, where those that have it need longer than so many loads and runs."""
        for since, seat in self._idle.copy():
            view = seat.prospect.lanes.get(self._lane)
            if not self._homes or view is None or any(home.prospect is seat.prospect for *_, home in self._homes):
                continue
            begun, pace, home = self._homes[0]
            moment = max(since, home.loaded_at - home.load_seconds)
            rest = view.depth * pace - max(0.0, moment - begun) + max(0.0, home.loaded_at - moment)
            if rest > self._policy.replicate * (view.load_seconds + view.service_seconds):
                self._idle.remove((since, seat))
                slots = seat.prospect.view.slots
                ready = moment + view.load_seconds
                self._serve(
                    ready, view.pace(slots), _Seat(seat.prospect, self._lane, ready, view.load_seconds, slots, Why.LANE)
                )

    def _end(self, seat: _Seat, view: LaneView | None) -> float:
        """Until when the seat's lane claims, while it has jobs: rules 3b and 3c."""
        name = seat.prospect.view.name
        queue = self._queues[name]
        held = self._held(seat)
        first, challenger = queue.first_turn(held)
        if challenger is None:
            return math.inf
        first = max(first, self._loads_until.get(name, first))
        left = -1 if view is None else max((rank for rank, count in enumerate(view.classes) if count), default=-1)
        outranked = 0 <= left < queue.top_class(held)
        loads = seat.load_seconds, challenger.load_seconds
        if outranked:
            return max(seat.loaded_at + quantum(*loads, self._policy), self._loads_until.get(name, -math.inf))
        return max(first, seat.loaded_at + stay(*loads, self._policy, outranked=False))

    def _empty(self, moment: float, seat: _Seat, view: LaneView | None) -> float:
        """When an empty lane lets go of its place: at once, or, where it lingers with success, when it must (rule 6)."""
        queue = self._queues[seat.prospect.view.name]
        facts = view or seat.resident
        first, challenger = queue.first_turn(self._held(seat))
        if facts is None or not facts.gaps or challenger is None:
            return moment
        loads = seat.load_seconds, challenger.load_seconds
        ordered = sorted(facts.gaps)
        median = ordered[(len(ordered) - 1) // 2]
        idle_for = 0.0
        if seat.resident is not None and seat.resident.idle_since is not None:
            idle_for = max(0.0, moment - seat.resident.idle_since)
        waiting = max(1, queue.lanes.jobs)
        gain = sum(loads) + waiting * facts.service_seconds / 2 - waiting * facts.service_seconds
        if max(median, idle_for) > linger(facts.gaps, gain, waiting):
            return moment
        last = max(moment, seat.loaded_at + quantum(*loads, self._policy), first)
        self._runs.append(_Stretch(seat.lane or "", seat.prospect.view.name, Why.LINGER, 0.0, moment, last))
        return last + facts.service_seconds / 2

    def _leave(self, moment: float, tail: float, view: LaneView | None, seat: _Seat) -> None:
        """Its lane claims nothing more; the place is free when its last run ends. Where it has jobs, it was cut."""
        if view is not None and not self._take_over(moment, view.lane, seat):
            turn = moment + tail + self._policy.work_per_load * view.load_seconds
            self._queues[seat.prospect.view.name].returned.append((turn, view.lane))
        self._next(moment + tail, seat)

    def _take_over(self, moment: float, lane: str, left: _Seat) -> bool:
        """An idle target loads the lane that another one has just left."""
        for since, seat in self._idle:
            view = seat.prospect.lanes.get(lane)
            if view is not None and seat.prospect is not left.prospect and view.model not in self._held(seat):
                self._idle.remove((since, seat))
                self._give_up(seat)
                self._loads += 1
                ready, slots = max(moment, since) + view.load_seconds, seat.prospect.view.slots
                taken = _Seat(seat.prospect, lane, ready, view.load_seconds, slots, Why.TURN, view.model)
                self._push(ready, self._take(taken))
                return True
        return False

    def _next(self, moment: float, seat: _Seat) -> None:
        """The seat's place is free at that moment: rule 2. Where nobody waits for it, it is given up."""
        view = seat.prospect.view
        moment = max(moment, self._loads_until.get(view.name, moment))
        found = self._queues[view.name].next_at(moment, self._held(seat))
        if found is None:
            self._idle.append((moment, seat))
            self._join()
            return
        self._give_up(seat)
        lane, overdue = found
        load = lane.load_seconds
        self._loads += 1
        self._loads_until[view.name] = moment + load
        why = Why.TURN if overdue else Why.CLASS
        after = _Seat(seat.prospect, lane.lane, moment + load, load, view.slots, why, lane.model)
        self._push(moment + load, self._take(after))

    def _note(self, seat: _Seat, jobs: float, start: float, end: float) -> None:
        self._runs.append(_Stretch(seat.lane or "", seat.prospect.view.name, seat.why, jobs, start, end))

    def _forecast(self, moment: float, seat: _Seat) -> Forecast:
        before = [(run, run.jobs_until(moment)) for run in self._runs if run.start < moment]
        who = [
            Ahead(run.lane, run.target, run.why, round(jobs))
            for run, jobs in before
            if round(jobs) or run.why == Why.LINGER
        ]
        if self._in_lane:
            who.append(Ahead(self._lane, seat.prospect.view.name, Why.LANE, round(self._in_lane)))
        position = 1 + round(self._in_lane + sum(jobs for _, jobs in before))
        return Forecast(max(0.0, moment - self._now), position, seat.prospect.view.name, self._loads, tuple(who))
