"""How honest the forecast is: each job's first ETA beside the wait that it had.

scheduling.py runs me over traces; nothing decides by what I say.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreman.core.forecast import Forecast, Prospect, forecast
from foreman.simulate.drain import Drainer

if TYPE_CHECKING:
    from foreman.core.decisions import Decision
    from foreman.simulate.parts import Server, Work
    from foreman.simulate.world import World


@dataclass(frozen=True, slots=True)
class Foretold:
    """A job's forecast on its arrival."""

    job: Work
    said: Forecast | None

    @property
    def error(self) -> float:
        """How far the ETA was off, as a share of the wait that the job had; it must have been started."""
        assert self.job.started is not None
        wait = self.job.started - self.job.arrived
        return abs((self.said.eta_seconds if self.said else 0.0) - wait) / wait


class Foreteller(Drainer):
    """foreman, which is asked of each job how long it will wait."""

    def __init__(self, world: World, *, known: bool = True) -> None:
        super().__init__(world, known=known)
        self.foretold: list[Foretold] = []
        self._asked: list[Work] = []
        world.listeners.append(self._arrived)

    def _arrived(self, what: str, job: Work) -> None:
        if what == "arrived" and not self.world.lanes[job.lane].spec.embedding:
            self._asked.append(job)

    def decide(self, server: Server) -> Decision:
        """As foreman; what has just arrived is asked about first."""
        asked, self._asked = self._asked, []
        for job in asked:
            if job.state == "queued":
                self.foretold.append(Foretold(job, self.foretell(job)))
        return super().decide(server)

    def foretell(self, job: Work) -> Forecast | None:
        """The forecast of a queued job, as things stand."""
        prospects = []
        for server in self.world.servers:
            self._refresh(server)
            load = server.loading
            ends = None if load is None else load.load_began + load.load_seconds
            prospects.append(Prospect(self.view(server), self.indexes[server.name], ends, claimed=0))
        queued = self.world.lanes[job.lane].waiting.values()
        ahead = sum((other.due, other.serial) < (job.due, job.serial) for other in queued)
        return forecast(job.lane, ahead, prospects, self.world.now, self.policy)

    def median_error(self, least: float = 1.0) -> tuple[int, float]:
        """How many jobs waited that long (s) and were started, and the median error of their first ETA."""
        errors = [
            each.error
            for each in self.foretold
            if each.job.started is not None and each.job.started - each.job.arrived >= least
        ]
        return len(errors), statistics.median(errors) if errors else 0.0
