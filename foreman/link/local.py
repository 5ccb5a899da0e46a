"""The link within one process: an outlet's call is the sink's call, with the meter and the order of the other channel.

`foreman serve` registers its gateway's door here and gives me to its workers as their `Channels`. Orders to a worker
(cancel) arrive one loop turn later, as over TCP, so that an executor is never re-entered from its own `data`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from foreman.core.errors import Code
from foreman.link.channel import NoLinkError
from foreman.link.outlet import Metered
from foreman.link.run import runs_of

if TYPE_CHECKING:
    from foreman.core.errors import Failure
    from foreman.link.channel import Control, Door, Head, Outlet
    from foreman.link.run import Run


class LocalLink:
    """The doors of the gateways in this process; implements `Channels` for its workers."""

    def __init__(self) -> None:
        self._doors: dict[str, Door] = {}
        self._outlets: dict[str, set[LocalOutlet]] = {}

    def __contains__(self, gateway: str) -> bool:
        """Whether this gateway is in this process."""
        return gateway in self._doors

    def register(self, gateway_id: str, door: Door) -> None:
        """From now on jobs of `gateway_id` are answered through `door`."""
        self._doors[gateway_id] = door
        self._outlets[gateway_id] = set()

    def unregister(self, gateway_id: str) -> None:
        """The gateway leaves: as when a connection ends, its open sinks are `lost`, their runs cancelled."""
        self._doors.pop(gateway_id, None)
        for outlet in list(self._outlets.pop(gateway_id, ())):
            outlet.unlinked()

    async def open(self, gateway: str, job_id: str, epoch: int, control: Control, *, window: int) -> Outlet:
        """See `Channels.open`; never waits. Raises NoLinkError when the gateway is not in this process."""
        door = self._doors.get(gateway)
        if door is None:
            raise NoLinkError(f"gateway {gateway} is not in this process")
        outlet = LocalOutlet(job_id, control, window, self._outlets[gateway])
        outlet.begin(door, epoch)
        return outlet


class LocalOutlet(Metered):
    """An outlet that calls its run directly."""

    __slots__ = ("_run", "_siblings")

    def __init__(self, job_id: str, control: Control, window: int, siblings: set[LocalOutlet]) -> None:
        super().__init__(job_id, control, window)
        self._siblings = siblings
        self._run: Run

    def begin(self, door: Door, epoch: int) -> None:
        """Bind the run, or learn that there is none."""
        back = _LocalBack(self, self._siblings)
        run = runs_of(door).begin(door, self.job_id, epoch, back)
        if isinstance(run, Code):
            self._over = True
            asyncio.get_running_loop().call_soon(self._stop, run)
            return
        self._run = run
        self._siblings.add(self)
        run.start()

    def unlinked(self) -> None:
        """The gateway is gone."""
        self._run.lost()
        self.gone(Code.INTERRUPTED)

    def _pass_working(self) -> None:
        self._run.working()

    def _pass_head(self, head: Head) -> None:
        self._run.head(head)

    def _pass_data(self, unit: bytes) -> None:
        self._run.data(unit)

    def _pass_held(self, waits: bool) -> None:
        self._run.held(waits)

    def _pass_end(self) -> None:
        self._run.end()

    def _pass_error(self, failure: Failure) -> None:
        self._run.error(failure)

    def _pass_back(self) -> None:
        self._run.back()


class _LocalBack:
    """The way back from a run to its outlet."""

    __slots__ = ("_loop", "_outlet", "_siblings")

    def __init__(self, outlet: LocalOutlet, siblings: set[LocalOutlet]) -> None:
        self._outlet = outlet
        self._siblings = siblings
        self._loop = asyncio.get_running_loop()

    def cancel(self, code: Code) -> None:
        self._loop.call_soon(self._outlet.cancel, code)

    def credit(self, taken: int) -> None:
        self._outlet.credit(taken)

    def fit(self, window: int) -> None:
        self._outlet.fit(window)

    def over(self) -> None:
        self._siblings.discard(self._outlet)
        del self._outlet  # which holds the run that holds me
